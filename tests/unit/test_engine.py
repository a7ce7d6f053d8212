import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Event
from typing import Any
from weakref import ReferenceType, ref

import pytest

from shared.clock import Clock
from shared.errors import LeaseLost, ModelFailed, ShuttingDown
from shared.images import Picture, Source
from shared.jobs import Recipe
from tests.models import Follower, PacedModel, Steps, seed_of
from tests.samples import picture, record
from worker import metrics
from worker.engine import Engine
from worker.work import OutOfMemory, Varied

SOURCE = Source(picture(), "digest")


@contextmanager
def running(model: PacedModel, call_tokens: int = 16_384) -> Iterator[Engine]:
    engine = Engine(model, Clock(), timedelta(minutes=1), call_tokens)
    engine.start()
    yield engine
    engine.stop()


def test_each_variations_steps_are_told_also_when_they_take_turns() -> None:
    follower = Follower()
    recipe = record(num_outputs=2, num_inference_steps=2, megapixels="0.25").parameters.recipe
    with running(PacedModel(), call_tokens=recipe.size.tokens) as engine:
        engine.vary(SOURCE, recipe, follower)
    assert follower.each[-1] == [2, 2]
    assert any(first > second for first, second in follower.each)


def test_a_job_comes_out_with_one_picture_for_each_seed_and_tells_every_step() -> None:
    follower = Follower()
    with running(PacedModel()) as engine:
        recipe = record(seed=5, num_outputs=3, num_inference_steps=4, megapixels="0.25").parameters.recipe
        pictures = engine.vary(SOURCE, recipe, follower).pictures
    assert [image.getpixel((0, 0)) for image in pictures] == [(5, 0, 0), (6, 0, 0), (7, 0, 0)]
    assert pictures[0].size == (576, 448)
    assert follower.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_model_that_fails_now_and_then_fails_its_job_and_the_engine_lives_on() -> None:
    with running(PacedModel(fails_for=frozenset({13}))) as engine:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="CUDA error"):
                engine.vary(SOURCE, record(seed=13).parameters.recipe, Follower())
            assert len(engine.vary(SOURCE, record(seed=1).parameters.recipe, Follower()).pictures) == 1


def test_a_model_that_knows_that_it_failed_may_do_so_often() -> None:
    class Honest(PacedModel):
        def decode(self, row: Steps) -> Callable[[], Picture]:
            raise ModelFailed

    with running(Honest()) as engine:
        for _ in range(3):
            with pytest.raises(ModelFailed):
                engine.vary(SOURCE, record(num_inference_steps=1).parameters.recipe, Follower())


SICK = """
from tests.models import PacedModel
from tests.samples import record
from tests.unit.test_engine import SOURCE, Follower, running
class Sick(PacedModel):
    def {what}(self, *given):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
with running(Sick()) as engine:
    try:
        engine.vary(SOURCE, record().parameters.recipe, Follower())
    except RuntimeError:
        print("survived the first")
    engine.vary(SOURCE, record().parameters.recipe, Follower())
"""
IDLE = """
import time
from tests.models import PacedModel
from tests.unit.test_engine import running
with running(PacedModel()) as engine:
    engine._inbox.put(object())
    time.sleep(5)
"""

HANGING = """
import time
from datetime import timedelta
from shared.clock import Clock
from tests.models import PacedModel
from tests.samples import record
from tests.unit.test_engine import SOURCE, Follower
from worker.engine import Engine
class Hanging(PacedModel):
    def {what}(self, *given):
        return {how}
engine = Engine(Hanging(), Clock(), timedelta(seconds=1), 16_384)
engine.start()
print("begins", flush=True)
{begin}
"""
VARY = "engine.vary(SOURCE, record(num_inference_steps=1).parameters.recipe, Follower())"


def ended(script: str) -> subprocess.CompletedProcess[str]:
    """A process that ran an engine."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("what", ["begin", "advance", "decode"])
def test_a_model_that_fails_twice_in_a_row_ends_its_worker_with_one_clear_line(what: str) -> None:
    sick = ended(SICK.format(what=what))
    assert sick.returncode == 1
    first, line = sick.stdout.splitlines()
    assert first == "survived the first"
    assert "the model failed twice in a row, and the worker ends" in line
    assert "illegal memory access" in line


def test_an_engine_that_dies_with_nothing_to_do_ends_its_worker_too() -> None:
    idle = ended(IDLE)
    assert idle.returncode == 1
    assert "the engine died, and the worker with it" in idle.stdout


@pytest.mark.parametrize(
    ("what", "how", "begin"),
    [
        ("advance", "time.sleep(15)", VARY),
        ("prepare", "time.sleep(15)", VARY),
        ("decode", "lambda: time.sleep(15)", VARY),
        ("other", "None", "with engine.watched(): time.sleep(15)"),
    ],
)
def test_whatever_hangs_of_what_the_model_does_ends_the_worker(what: str, how: str, begin: str) -> None:
    hung = ended(HANGING.format(what=what, how=how, begin=begin))
    assert hung.returncode == 1
    first, line = hung.stdout.splitlines()
    assert first == "begins"
    assert "the engine hangs, and the worker ends" in line


def test_a_job_that_lost_its_lease_stops_at_the_next_step() -> None:
    follower = Follower(end_at=2)
    with running(PacedModel()) as engine:
        with pytest.raises(LeaseLost):
            engine.vary(SOURCE, record(num_inference_steps=50).parameters.recipe, follower)
        assert len(engine.vary(SOURCE, record().parameters.recipe, Follower()).pictures) == 1
    assert follower.seen == [(1, 50), (2, 50)]


class Together:
    """An engine that is given jobs while another runs that holds it up."""

    def __init__(self, model: PacedModel) -> None:
        self.model = model
        self._first_is_in = Event()

    def run(self, *recipes: Recipe, holds: Recipe, follower: Follower | None = None) -> list[Varied | Exception]:
        """Return what came of the recipes; the first has the follower."""
        follows = iter([follower or Follower()])
        with running(self.model) as engine, ThreadPoolExecutor() as pool:
            pool.submit(engine.vary, SOURCE, holds, _Holding(self._first_is_in))
            self._first_is_in.wait()
            calls = [pool.submit(engine.vary, SOURCE, recipe, next(follows, Follower())) for recipe in recipes]
            return [call.exception() or call.result() for call in calls]  # type: ignore[misc]


class _Holding(Follower):
    def __init__(self, begun: Event) -> None:
        super().__init__()
        self._begun = begun

    def tell(self, made: Sequence[int], steps: int) -> None:
        self._begun.set()


def recipe(**parameters: Any) -> Recipe:
    chosen: dict[str, Any] = {"num_inference_steps": 4, "megapixels": "0.25"} | parameters
    return record(**chosen).parameters.recipe


def long_one(**parameters: Any) -> Recipe:
    return recipe(**{"seed": 100, "num_inference_steps": 50, "megapixels": "1"} | parameters)


def seeds_of(varied: Varied | Exception) -> list[int]:
    assert isinstance(varied, Varied)
    return [seed_of(picture) for picture in varied.pictures]


def test_a_small_job_overtakes_a_large_one_between_two_of_its_calls() -> None:
    model = PacedModel(pace=0.01)
    Together(model).run(recipe(seed=1), holds=long_one())
    told = [seeds[0] for seeds in model.calls]
    assert 100 in told[: told.index(1)]
    assert told[-1] == 100
    assert told.index(1) < 25


def test_rows_of_one_size_share_calls_and_those_of_two_sizes_never_do() -> None:
    model = PacedModel(pace=0.002)
    small = [recipe(seed=seed, num_outputs=2, num_inference_steps=40) for seed in (1, 11)]
    results = Together(model).run(*small, recipe(seed=21, megapixels="1"), holds=long_one())
    assert [seeds_of(result) for result in results] == [[1, 2], [11, 12], [21]]
    assert any({1, 2, 11, 12} <= set(seeds) for seeds in model.calls)  # PacedModel asserts that sizes are not mixed


def test_a_call_has_no_more_image_tokens_than_settings_allow_and_the_pictures_keep_their_order() -> None:
    model = PacedModel()
    with running(model, call_tokens=3 * 1008) as engine:  # of 576 x 448 pixels
        varied = engine.vary(SOURCE, recipe(seed=1, num_outputs=4), Follower())
    assert max(map(len, model.calls)) == 3
    assert seeds_of(varied) == [1, 2, 3, 4]


def test_a_call_that_does_not_fit_the_device_is_split_and_its_size_stays_split_for_a_while() -> None:
    model = PacedModel(most_rows=1)
    with running(model) as engine:
        for _ in range(2):
            assert seeds_of(engine.vary(SOURCE, recipe(seed=1, num_outputs=4), Follower())) == [1, 2, 3, 4]
    assert {len(seeds) for seeds in model.calls} == {1}


def test_a_size_that_was_split_is_tried_whole_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.SHORTAGE", 0.3)
    model = PacedModel(most_rows=1)
    with running(model) as engine:
        engine.vary(SOURCE, recipe(seed=1, num_outputs=2, num_inference_steps=1), Follower())
        model.most_rows = 2
        time.sleep(0.4)
        engine.vary(SOURCE, recipe(seed=1, num_outputs=2, num_inference_steps=1), Follower())
    assert model.calls[-1] == [1, 2]


def test_a_picture_that_does_not_fit_the_device_alone_fails_its_job() -> None:
    with running(PacedModel(most_rows=0)) as engine, pytest.raises(OutOfMemory):
        engine.vary(SOURCE, recipe(), Follower())


def test_a_job_that_leaves_takes_nothing_from_those_it_shared_calls_with() -> None:
    model, leaver = PacedModel(pace=0.005), Follower(end_at=2)
    holds = long_one(num_inference_steps=10)
    gone, stayed = Together(model).run(
        recipe(seed=1, num_inference_steps=20), recipe(seed=11), holds=holds, follower=leaver
    )
    assert isinstance(gone, LeaseLost)
    assert seeds_of(stayed) == [11]


def test_a_job_that_breaks_a_shared_call_fails_alone() -> None:
    class Breaking(PacedModel):
        def advance(self, rows: Sequence[Steps]) -> None:
            if any(row.seed == 11 and row.step == 2 for row in rows):
                tried.append([row.seed for row in rows])
                raise RuntimeError("CUDA error")
            super().advance(rows)

    tried: list[list[int]] = []
    jobs = [recipe(seed=seed, num_inference_steps=40) for seed in (1, 11)]
    whole, broken = Together(Breaking(pace=0.002)).run(*jobs, holds=long_one())
    assert isinstance(broken, RuntimeError)
    assert seeds_of(whole) == [1]
    assert sorted(tried[0]) == [1, 11]
    assert tried[1:] == [[11]]


def test_jobs_that_do_not_fit_the_device_do_not_make_it_a_sick_one() -> None:
    with running(PacedModel(most_rows=0)) as engine:
        for _ in range(3):
            with pytest.raises(OutOfMemory):
                engine.vary(SOURCE, recipe(), Follower())


@pytest.mark.parametrize(("seed", "error"), [(7, LeaseLost), (13, RuntimeError)])
def test_nothing_keeps_a_job_alive_that_was_canceled_or_failed(seed: int, error: type[Exception]) -> None:
    kept: list[ReferenceType[Steps]] = []

    class Remembering(PacedModel):
        def begin(self, prepared: Recipe) -> list[Steps]:
            rows = super().begin(prepared)
            kept.extend(map(ref, rows))
            return rows

    gc.disable()
    try:
        with running(Remembering(fails_for=frozenset({13}))) as engine:
            for _ in range(3):
                with pytest.raises(error):
                    engine.vary(SOURCE, recipe(seed=seed), Follower(end_at=2))
                engine.vary(SOURCE, recipe(), Follower())
            assert [row() for row in kept[:6:2]] == [None] * 3
    finally:
        gc.enable()


def test_the_engine_tells_how_long_it_took_and_how_long_it_still_needs() -> None:
    left: list[float] = []

    class Listener(Follower):
        def check(self) -> None:
            left.append(engine.seconds_left)

    with running(PacedModel(pace=0.02)) as engine:
        varied = engine.vary(SOURCE, record(num_inference_steps=10).parameters.recipe, Listener())
    assert 0.2 <= varied.seconds < 1
    assert left[0] == 0.0  # idle
    assert left[1] >= 9 * 0.02
    assert left[1] > left[5] > left[9] >= 0.02
    assert engine.seconds_left == 0.0


def test_on_a_device_that_is_a_call_behind_each_call_has_its_own_time() -> None:
    class Behind(PacedModel):
        given = passed = 0.0  #: seconds of work

        def advance(self, rows: Sequence[Steps]) -> None:
            super().advance(rows)
            self.passed = self.given
            self.given += rows[0].size.tokens

        def decode(self, row: Steps) -> Callable[[], Picture]:
            self.given += 0.5

            def wait() -> Picture:
                self.passed = self.given
                return picture()

            return wait

        def mark(self) -> float:
            return self.given

        def between(self, first: float, second: float) -> float | None:
            return second - first if second <= self.passed else None

    large, small = (record(num_inference_steps=3, megapixels=each).parameters.recipe for each in ("1", "0.25"))
    with running(Behind()) as engine:
        for wish in (large, small, large):
            calls = metrics.CALLS.labels(f"{wish.size.width}x{wish.size.height}", 1)
            before = calls._sum.get()
            assert engine.vary(SOURCE, wish, Follower()).seconds == 3 * wish.size.tokens + 0.5
            assert calls._sum.get() - before == 3 * wish.size.tokens
        assert not engine._accounts._open


def test_a_normal_job_goes_ahead_of_a_low_one_that_runs() -> None:
    low = Follower()
    low.low = True
    with running(model := PacedModel(pace=0.01)) as engine, ThreadPoolExecutor() as pool:
        waits = pool.submit(engine.vary, SOURCE, recipe(seed=1, num_inference_steps=50), low)
        while len(low.seen) < 3:
            pass
        engine.vary(SOURCE, recipe(seed=2, num_inference_steps=10), Follower())
        assert not waits.done()
        waits.result(10)
    seeds = [seed for call in model.calls for seed in call]
    assert seeds[seeds.index(2) :][:10].count(2) >= 9  # a low one has its small share


def test_an_engine_that_closes_lets_go_at_once_what_does_not_fit_and_ends_what_does() -> None:
    first, second = Follower(), Follower()
    with running(PacedModel(pace=0.02)) as engine, ThreadPoolExecutor() as pool:
        short = pool.submit(engine.vary, SOURCE, recipe(seed=1, num_inference_steps=30), first)
        long = pool.submit(engine.vary, SOURCE, recipe(seed=2, num_inference_steps=50), second)
        while len(first.seen) < 3 or not engine.speed:
            pass
        engine.close(1.0)
        with pytest.raises(ShuttingDown):
            long.result(0.3)
        assert not short.done()
        assert seeds_of(short.result(5)) == [1]
    assert len(second.seen) < 10


def test_an_engine_that_closes_before_it_knows_its_pace_begins_nothing() -> None:
    with running(model := PacedModel()) as engine:
        engine.close(60)
        with pytest.raises(ShuttingDown):
            engine.vary(SOURCE, recipe(), Follower())
    assert not model.calls


def test_a_stopped_engine_has_finished_what_it_was_given() -> None:
    engine = Engine(PacedModel(pace=0.01), Clock(), timedelta(minutes=1), call_tokens=16_384)
    engine.start()
    with ThreadPoolExecutor() as pool:
        job = pool.submit(engine.vary, SOURCE, record(num_inference_steps=5).parameters.recipe, follower := Follower())
        while not follower.seen:
            pass
        engine.stop()
        assert len(job.result(1).pictures) == 1
