"""The life of a job in the worker, on a real Valkey and a real S3 server; only the weights are missing."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from shared.dispatch_store import living_workers
from shared.errors import NotFound, RecordsUnavailable, ShuttingDown, StorageUnavailable
from shared.ids import AssetKey, JobId
from shared.images import Picture, read_source
from shared.job_store import JobStore
from shared.jobs import Flagged, JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.programs import run
from shared.settings import Settings
from shared.transitions import Transition, fail_attempt
from tests.models import ChosenScores, PacedModel, seed_of
from tests.samples import MODEL, NOW, PRICE, encoded, picture, record, start
from tests.servers import wait_until
from worker.engine import Engine
from worker.lease import LeaseKeeper
from worker.runner import Runner, Score

STORE = JobStore(timedelta(seconds=1))
SOURCE = AssetKey("images/source.png")
CHECKED = MODEL.model_copy(update={"safety_checker": "checker"})


class Desk:
    """A worker without Celery."""

    def __init__(self, records: redis.Redis, objects: ObjectStore) -> None:
        self.records = records
        self.objects = objects
        self.model = PacedModel()
        self.engine = Engine(self.model)
        self.keeper = LeaseKeeper(records, STORE, name="one", slots=2)
        self.score = ChosenScores()
        self.runner = Runner(
            settings=Settings(),
            update=self.update,
            keeper=self.keeper,
            objects=objects,
            engine=self.engine,
            score=self.score,
            model=CHECKED,
        )
        self.engine.start()
        self.keeper.start()

    def runner_with(self, **others: Any) -> Runner:
        return replace(self.runner, **others)

    def run(self, runner: Runner | None = None, **parameters: Any) -> JobRecord:
        """Return the record of a new job as its first attempt left it."""
        left = (runner or self.runner).run(self.accept(**parameters))
        assert left is not None
        return left

    def update(self, job_id: JobId, transition: Transition) -> JobRecord:
        return run(self.records, STORE.update(job_id, transition))

    def accept(self, **parameters: Any) -> JobId:
        job = record(**parameters)
        assert run(self.records, STORE.accept(job))
        return job.id

    def stored(self, job_id: JobId) -> JobRecord:
        job = run(self.records, STORE.get(job_id))
        assert job is not None
        return job

    def credit(self) -> int:
        return int(str(self.records.hget("team:team", "credit")))

    def is_there(self, key: AssetKey) -> bool:
        try:
            return bool(self.objects.get(key))
        except NotFound:
            return False


@pytest.fixture
def desk(records: redis.Redis, objects: ObjectStore) -> Iterator[Desk]:
    objects.put(SOURCE, encoded(picture(), "PNG"), "image/png")
    desk = Desk(records, objects)
    yield desk
    desk.keeper.stop()
    desk.engine.stop()


def test_a_queued_job_ends_with_its_variations_at_the_planned_keys(desk: Desk) -> None:
    done = desk.run(num_outputs=2, num_inference_steps=3, megapixels="0.25", output_format="png")
    assert done == desk.stored(done.id)
    assert done.status is JobStatus.SUCCEEDED
    assert tuple(variation.key for variation in done.variations) == done.planned_keys
    assert [variation.seed for variation in done.variations] == [7, 8]
    for variation in done.variations:
        data = desk.objects.get(variation.key)
        assert len(data) == variation.size_bytes
        assert read_source(data).size == (576, 448)
    assert set(done.timings) == {"sourceSeconds", "modelSeconds", "safetySeconds", "storeSeconds"}
    assert done.model == CHECKED


def test_a_job_that_is_not_queued_is_left_alone(desk: Desk) -> None:
    done = desk.run(num_inference_steps=1)
    assert desk.runner.run(done.id) is None
    assert desk.runner.run(JobId("unknown")) is None
    assert desk.stored(done.id) == done


def test_a_job_that_fails_in_the_model_is_a_failed_job_and_the_next_one_succeeds(desk: Desk) -> None:
    desk.model.fails_for = frozenset({13})
    failed = desk.run(seed=13)
    assert failed.failure is not None
    assert failed.failure.code == "MODEL_FAILED"
    assert "RuntimeError: CUDA error" in failed.failure.message
    assert desk.run().status is JobStatus.SUCCEEDED


def test_a_flagged_variation_is_withheld_and_the_others_are_delivered_and_paid(desk: Desk) -> None:
    desk.score.by_seed = {8: 0.912345, 9: 0.4999}
    before = desk.credit()
    done = desk.run(num_outputs=3, num_inference_steps=1, output_format="png")
    assert done.status is JobStatus.SUCCEEDED
    assert done.flagged == (Flagged(seed=8, score=0.9123),)
    first, withheld, last = done.planned_keys
    assert [(variation.seed, variation.key) for variation in done.variations] == [(7, first), (9, last)]
    assert [seed_of(read_source(desk.objects.get(key))) for key in (first, last)] == [7, 9]
    assert not desk.is_there(withheld)
    assert done.charged == before - desk.credit() == -(-2 * PRICE // 3)


def test_a_job_whose_variations_are_all_flagged_fails_and_costs_nothing(desk: Desk) -> None:
    desk.score.by_seed = {7: 0.5, 8: 0.91}
    before = desk.credit()
    failed = desk.run(num_outputs=2, num_inference_steps=1)
    assert failed.status is JobStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "CONTENT_FLAGGED"
    assert failed.failure.message == "The safety checker flagged every variation. Scores: 0.5, 0.91"
    assert failed.model == CHECKED
    assert failed.flagged == (Flagged(seed=7, score=0.5), Flagged(seed=8, score=0.91))
    assert not failed.variations
    assert not any(desk.is_there(key) for key in failed.planned_keys)
    assert (failed.charged, desk.credit()) == (0, before)


def test_a_job_without_the_safety_checker_is_delivered_unseen_and_says_so(desk: Desk) -> None:
    desk.score.by_seed = {7: 1.0}
    done = desk.run(num_inference_steps=1, disable_safety_checker=True)
    assert len(done.variations) == 1
    assert (done.flagged, desk.score.asked) == ((), 0)
    assert done.model == MODEL
    assert "safetySeconds" not in done.timings


def _raise(pictures: list[Picture]) -> list[float]:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("score", [_raise, lambda pictures: []])
def test_a_safety_checker_that_fails_ends_the_job_and_nothing_goes_out_unchecked(desk: Desk, score: Score) -> None:
    failed = desk.run(desk.runner_with(score=score), num_inference_steps=1)
    assert failed.status is JobStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "MODEL_FAILED"
    assert failed.failure.message.startswith("The safety checker failed.")
    assert not any(desk.is_there(key) for key in failed.planned_keys)


@pytest.mark.parametrize("data", [None, b"not an image"])
def test_a_source_that_cannot_be_read_fails_the_job(desk: Desk, data: bytes | None) -> None:
    source = AssetKey("images/gone.png")
    desk.objects.delete(source)
    if data:
        desk.objects.put(source, data, "image/png")
    failed = desk.run(source=source)
    assert failed.failure is not None
    assert failed.failure.code == "SOURCE_UNUSABLE"
    assert failed.failure.message in {
        "the source is no longer in the store",
        "the source: the image is of no known type",
    }


def test_progress_is_told_while_the_job_runs_and_the_lease_outlives_its_length(desk: Desk) -> None:
    desk.model.pace = 0.1
    job_id = desk.accept(num_inference_steps=20)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(desk.runner.run, job_id)
        steps = set()
        while not running.done():
            report = run(desk.records, STORE.report(job_id))
            steps.add(report.progress.step if report and report.progress else 0)
            unleased = run(desk.records, STORE.unleased())
            assert not unleased or desk.stored(job_id).finished  # it may end between the two looks
            time.sleep(0.05)
    assert len(steps) > 3
    assert desk.stored(job_id).attempt == 1


def test_a_worker_that_lost_its_lease_stops_and_leaves_nothing_behind(desk: Desk) -> None:
    desk.model.pace = 0.05
    job_id = desk.accept(num_inference_steps=50)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(desk.runner.run, job_id)
        wait_until(lambda: desk.stored(job_id).status is JobStatus.RUNNING)
        keys = desk.stored(job_id).planned_keys
        desk.update(job_id, partial(fail_attempt, attempt=1, reason="as the dispatcher does", limit=3, now=NOW))
        desk.update(job_id, start)
        assert running.result(2) is None
    assert desk.stored(job_id).attempt == 2
    assert desk.stored(job_id).status is JobStatus.RUNNING
    assert not any(desk.is_there(key) for key in keys)


def test_a_job_is_handed_back_at_shutdown_and_counts_as_no_failure(desk: Desk) -> None:
    desk.model.pace = 0.05
    job_id = desk.accept(num_inference_steps=50)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(desk.runner.run, job_id)
        wait_until(lambda: desk.stored(job_id).status is JobStatus.RUNNING)
        desk.keeper.end_all(ShuttingDown())
        back = running.result(2)
    assert back is not None
    assert (back.status, back.attempt, back.failed_attempts) == (JobStatus.QUEUED, 1, 0)


class LosesTheSecondPut:
    """An object store whose server goes away after the first variation."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.put_keys: list[AssetKey] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def put(self, key: AssetKey, body: bytes, content_type: str) -> str:
        if self.put_keys:
            raise StorageUnavailable
        self.put_keys.append(key)
        return self._objects.put(key, body, content_type)


def test_variations_are_complete_or_absent_and_the_job_gets_another_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.OUTAGE", 0.01)
    lossy = LosesTheSecondPut(desk.objects)
    back = desk.run(desk.runner_with(objects=lossy), num_outputs=2, num_inference_steps=1)
    assert (back.status, back.failed_attempts) == (JobStatus.QUEUED, 1)
    assert len(lossy.put_keys) == 1
    assert not desk.is_there(lossy.put_keys[0])
    done = desk.runner.run(back.id)
    assert done is not None
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)


class LosesTheJobAtTheFirstPut(LosesTheSecondPut):
    """An object store whose caller has lost the job to another worker when its first variation is stored."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk.objects)
        self._desk = desk

    def put(self, key: AssetKey, body: bytes, content_type: str) -> str:
        self.put_keys.append(key)
        etag = self._objects.put(key, body, content_type)
        (job_id,) = (JobId(str(name)) for name in self._desk.records.zrange("jobs:running", 0, -1))
        self._desk.update(job_id, partial(fail_attempt, attempt=1, reason="silent", limit=3, now=NOW))
        self._desk.update(job_id, start)
        time.sleep(0.6)  # the keeper notices when it next renews
        return etag


@pytest.mark.parametrize("num_outputs", [1, 2])  # noticed when it finishes, and before it stores the next
def test_a_worker_that_lost_its_job_while_it_stores_stops_and_removes_what_it_stored(
    desk: Desk, num_outputs: int
) -> None:
    thief = LosesTheJobAtTheFirstPut(desk)
    job_id = desk.accept(num_outputs=num_outputs, num_inference_steps=1)
    assert desk.runner_with(objects=thief).run(job_id) is None
    assert len(thief.put_keys) == 1
    assert not desk.is_there(thief.put_keys[0])
    assert desk.stored(job_id).status is JobStatus.RUNNING


def test_a_worker_that_must_go_while_the_records_server_is_away_leaves_its_variations(desk: Desk) -> None:
    def go_away(job_id: JobId, transition: Transition) -> JobRecord:
        result = desk.update(job_id, transition)
        if result.status is JobStatus.RUNNING:
            return result
        desk.keeper.end_all(ShuttingDown())
        raise RecordsUnavailable

    job_id = desk.accept(num_inference_steps=1)
    assert desk.runner_with(update=go_away).run(job_id) is None
    assert desk.stored(job_id).status is JobStatus.SUCCEEDED  # only the answer was lost
    assert all(desk.is_there(key) for key in desk.stored(job_id).planned_keys)


def test_a_retired_worker_is_off_the_list_and_stays_off(desk: Desk) -> None:
    wait_until(lambda: run(desk.records, living_workers()) == {"one": 2})
    desk.keeper.retire()
    time.sleep(0.6)
    assert run(desk.records, living_workers()) == {}


def test_a_finish_whose_answer_was_lost_is_repeated_and_deletes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.PAUSE", 0.01)
    lost: list[JobRecord] = []

    def lose_the_first_answer(job_id: JobId, transition: Transition) -> JobRecord:
        result = desk.update(job_id, transition)
        if result.status is JobStatus.SUCCEEDED and not lost:
            lost.append(result)
            raise RecordsUnavailable
        return result

    done = desk.run(desk.runner_with(update=lose_the_first_answer), num_inference_steps=1)
    assert lost == [done]
    assert all(desk.is_there(key) for key in done.planned_keys)
