import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event

import pytest

from shared.clock import Clock
from shared.errors import LeaseLost, ModelFailed, ReduxqError
from shared.images import Picture
from tests.models import PacedModel, Steps
from tests.samples import picture, record
from worker.engine import Engine


class Follower:
    """Notes the progress and ends the job before a step, if told to."""

    def __init__(self, end_at: int = -1, error: ReduxqError | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self.end_at = end_at
        self.error = error or LeaseLost()

    def check(self) -> None:
        if len(self.seen) == self.end_at:
            raise self.error

    def tell(self, step: int, steps: int) -> None:
        self.seen.append((step, steps))


@contextmanager
def running(model: PacedModel) -> Iterator[Engine]:
    engine = Engine(model, Clock(), timedelta(minutes=1))
    engine.start()
    yield engine
    engine.stop()


def test_a_job_comes_out_with_one_picture_for_each_seed_and_tells_every_step() -> None:
    follower = Follower()
    with running(PacedModel()) as engine:
        recipe = record(seed=5, num_outputs=3, num_inference_steps=4, megapixels="0.25").parameters.recipe
        pictures = engine.vary(picture(), recipe, follower).pictures
    assert [image.getpixel((0, 0)) for image in pictures] == [(5, 0, 0), (6, 0, 0), (7, 0, 0)]
    assert pictures[0].size == (576, 448)
    assert follower.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_model_that_fails_now_and_then_fails_its_job_and_the_engine_lives_on() -> None:
    with running(PacedModel(fails_for=frozenset({13}))) as engine:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="CUDA error"):
                engine.vary(picture(), record(seed=13).parameters.recipe, Follower())
            assert len(engine.vary(picture(), record(seed=1).parameters.recipe, Follower()).pictures) == 1


def test_a_model_that_knows_that_it_failed_may_do_so_often() -> None:
    class Honest(PacedModel):
        def decode(self, denoising: Steps) -> list[Picture]:
            raise ModelFailed

    with running(Honest()) as engine:
        for _ in range(3):
            with pytest.raises(ModelFailed):
                engine.vary(picture(), record(num_inference_steps=1).parameters.recipe, Follower())


SICK = """
from tests.models import PacedModel
from tests.samples import picture, record
from tests.unit.test_engine import Follower, running
with running(PacedModel(fails_for=frozenset({13}))) as engine:
    try:
        engine.vary(picture(), record(seed=13).parameters.recipe, Follower())
    except RuntimeError:
        print("survived the first")
    engine.vary(picture(), record(seed=13).parameters.recipe, Follower())
"""
IDLE = """
import time
from tests.models import PacedModel
from tests.unit.test_engine import running
with running(PacedModel()) as engine:
    engine._inbox.put(object())
    time.sleep(5)
"""


def ended(script: str) -> subprocess.CompletedProcess[str]:
    """A process that ran an engine."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)


def test_a_model_that_fails_twice_in_a_row_ends_its_worker_with_one_clear_line() -> None:
    sick = ended(SICK)
    assert sick.returncode == 1
    first, line = sick.stdout.splitlines()
    assert first == "survived the first"
    assert "the model failed twice in a row, and the worker ends" in line
    assert "illegal memory access" in line


def test_an_engine_that_dies_with_nothing_to_do_ends_its_worker_too() -> None:
    idle = ended(IDLE)
    assert idle.returncode == 1
    assert "the engine died, and the worker with it" in idle.stdout


def test_a_job_that_lost_its_lease_stops_at_the_next_step() -> None:
    follower = Follower(end_at=2)
    with running(PacedModel()) as engine:
        with pytest.raises(LeaseLost):
            engine.vary(picture(), record(num_inference_steps=50).parameters.recipe, follower)
        assert len(engine.vary(picture(), record().parameters.recipe, Follower()).pictures) == 1
    assert follower.seen == [(1, 50), (2, 50)]


def test_jobs_run_in_the_order_they_came() -> None:
    model, first_is_in = PacedModel(pace=0.01), Event()

    class First(Follower):
        def tell(self, step: int, steps: int) -> None:
            first_is_in.set()

    with running(model) as engine, ThreadPoolExecutor() as pool:

        def give(seed: int, follower: Follower) -> Callable[[], object]:
            return pool.submit(engine.vary, picture(), record(seed=seed).parameters.recipe, follower).result

        waits = [give(1, First())]
        first_is_in.wait()
        waits += [give(2, Follower())]
        for wait in waits:
            wait()
    assert model.begun == [1, 2]


def test_the_engine_tells_how_long_it_took_and_how_long_it_still_needs() -> None:
    left: list[float] = []

    class Listener(Follower):
        def check(self) -> None:
            left.append(engine.seconds_left)

    with running(PacedModel(pace=0.02)) as engine:
        varied = engine.vary(picture(), record(num_inference_steps=10).parameters.recipe, Listener())
    assert 0.2 <= varied.seconds < 1
    assert left[0] == 0.0  # idle
    assert left[1] >= 9 * 0.02
    assert left[1] > left[5] > left[9] >= 0.02
    assert engine.seconds_left == 0.0


def test_a_stopped_engine_has_finished_what_it_was_given() -> None:
    engine = Engine(PacedModel(pace=0.01), Clock(), timedelta(minutes=1))
    engine.start()
    with ThreadPoolExecutor() as pool:
        job = pool.submit(
            engine.vary, picture(), record(num_inference_steps=5).parameters.recipe, follower := Follower()
        )
        while not follower.seen:
            pass
        engine.stop()
        assert len(job.result(1).pictures) == 1
