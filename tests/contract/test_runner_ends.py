"""How a job in the worker ends when something is lost: its lease, a server, the worker's time."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

import pytest
import redis

from shared.assets import ORPHANED
from shared.clock import Clock
from shared.completions import BLOCK, follow_endings
from shared.connections import connect, run
from shared.errors import (
    LeaseLost,
    Misconfigured,
    RecordsUnavailable,
    ReduxqError,
    ShuttingDown,
    StorageUnavailable,
)
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.presence import living_workers
from shared.settings import JobsSettings, Settings, WorkerSettings
from shared.transitions import Transition, cancel, fail_attempt
from tests.desk import STORE, Desk
from tests.queues import LIFE
from tests.samples import NOW, start
from tests.servers import wait_until
from worker.lease import LeaseKeeper
from worker.runner import Runner


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


def test_a_job_that_was_stored_in_part_publishes_nothing_and_gets_another_attempt_after_a_long_outage(
    desk: Desk,
) -> None:
    lossy = LosesTheSecondPut(desk.objects)
    impatient = Settings(worker=WorkerSettings(outage_seconds=timedelta(0)))
    back = desk.run(desk.runner_with(objects=lossy, settings=impatient), num_outputs=2, num_inference_steps=1)
    assert (back.status, back.failed_attempts) == (JobStatus.QUEUED, 1)
    assert len(lossy.put_keys) == 1
    assert desk.records.zscore(ORPHANED, lossy.put_keys[0])  # for the sweeper to delete
    done = desk.runner.run(back.id)
    assert done is not None
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)


class IsAwayForAWhile(LosesTheSecondPut):
    """An object store whose server is away, or refuses us, for two calls of each kind, or for ever."""

    def __init__(self, objects: ObjectStore, calls: float = 2, error: ReduxqError | None = None) -> None:
        super().__init__(objects)
        self._left = {"get": calls, "put": calls}
        self._error = error or StorageUnavailable()

    def get(self, key: AssetKey) -> bytes:
        self._call("get")
        return self._objects.get(key)

    def put(self, key: AssetKey, body: bytes, content_type: str) -> str:
        self._call("put")
        return self._objects.put(key, body, content_type)

    def _call(self, kind: str) -> None:
        self._left[kind] -= 1
        if self._left[kind] >= 0:
            raise self._error


@pytest.mark.parametrize("error", [StorageUnavailable(), Misconfigured("InvalidAccessKeyId")])
def test_an_object_storage_that_is_away_or_refuses_us_for_a_while_fails_no_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: ReduxqError
) -> None:
    monkeypatch.setattr("worker.runner.PAUSE", 0.01)
    away = IsAwayForAWhile(desk.objects, error=error)
    done = desk.run(desk.runner_with(objects=away), num_outputs=2, num_inference_steps=1)
    assert (done.status, done.attempt, done.failed_attempts) == (JobStatus.SUCCEEDED, 1, 0)
    assert all(desk.is_there(key) for key in done.planned_keys)


def test_a_worker_with_wrong_credentials_fails_attempts_and_clients_read_nothing_of_them(desk: Desk) -> None:
    refused = IsAwayForAWhile(desk.objects, math.inf, Misconfigured("refused: key AKIA1234"))
    impatient = Settings(worker=WorkerSettings(outage_seconds=timedelta(0)), jobs=JobsSettings(max_failed_attempts=1))
    failure = desk.run(desk.runner_with(objects=refused, settings=impatient)).failure
    assert failure is not None
    assert failure.code == "TOO_MANY_ATTEMPTS"
    assert failure.message == f"1 attempts failed; the last: {Misconfigured().summary}"


def test_a_job_is_handed_back_without_another_call_of_a_frozen_object_storage(desk: Desk) -> None:
    class Frozen(IsAwayForAWhile):
        def put(self, key: AssetKey, body: bytes, content_type: str) -> str:
            desk.keeper.end_all(ShuttingDown())
            raise StorageUnavailable

        def delete(self, key: AssetKey) -> None:
            raise AssertionError(key)

    back = desk.run(desk.runner_with(objects=Frozen(desk.objects, calls=0)), num_inference_steps=1)
    assert (back.status, back.failed_attempts) == (JobStatus.QUEUED, 0)


@pytest.mark.parametrize("ending", [ShuttingDown(), LeaseLost()])
def test_a_job_that_waits_for_the_object_storage_is_let_go_at_once(desk: Desk, ending: ReduxqError) -> None:
    job_id = desk.accept()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(desk.runner_with(objects=IsAwayForAWhile(desk.objects, calls=math.inf)).run, job_id)
        wait_until(desk.keeper.held)
        time.sleep(0.2)  # it waits now
        desk.keeper.end_all(ending)
        left = running.result(0.5)
    if isinstance(ending, LeaseLost):
        assert left is None
    else:
        assert left is not None
        assert (left.status, left.failed_attempts) == (JobStatus.QUEUED, 0)


def test_a_canceled_job_leaves_the_engine_at_its_next_step(desk: Desk, valkey: str) -> None:
    desk.keeper.stop()  # so that no renewal finds it out
    desk.model.pace = 0.2
    job_id, stop = desk.accept(num_inference_steps=50), Event()
    with ThreadPoolExecutor() as pool, connect(valkey, timeout=2 * BLOCK) as patient:
        following = pool.submit(follow_endings, patient, desk.keeper.doubt, Clock(), stop, 0.1)
        running = pool.submit(desk.runner.run, job_id)
        wait_until(lambda: any(lease.progress for lease in desk.keeper.held()))
        (lease,) = desk.keeper.held()
        before = lease.progress
        desk.update(job_id, partial(cancel, now=NOW))
        assert running.result(1) is None
        stop.set()
        desk.update(desk.accept(), partial(cancel, now=NOW))
        following.result(1)
    assert before
    assert lease.progress
    assert lease.progress.step <= before.step + 1
    assert desk.stored(job_id).status is JobStatus.CANCELED


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
    def go_away(job_id: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
        result = desk.update(job_id, transition, known)
        if result.status is JobStatus.RUNNING:
            return result
        desk.keeper.end_all(ShuttingDown())
        raise RecordsUnavailable

    job_id = desk.accept(num_inference_steps=1)
    assert desk.runner_with(update=go_away).run(job_id) is None
    assert desk.stored(job_id).status is JobStatus.SUCCEEDED  # only the answer was lost
    assert all(desk.is_there(key) for key in desk.stored(job_id).planned_keys)


def test_a_finish_whose_answer_was_lost_is_repeated_and_deletes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.PAUSE", 0.01)
    lost: list[JobRecord] = []

    def lose_the_first_answer(job_id: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
        result = desk.update(job_id, transition, known)
        if result.status is JobStatus.SUCCEEDED and not lost:
            lost.append(result)
            raise RecordsUnavailable
        return result

    done = desk.run(desk.runner_with(update=lose_the_first_answer), num_inference_steps=1)
    assert lost == [done]
    assert all(desk.is_there(key) for key in done.planned_keys)


def lossy(desk: Desk, answers: int) -> Runner:
    """A runner that does not hear how its first claims went, which arrived."""
    left = iter(range(answers))

    def update(job_id: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
        result = desk.update(job_id, transition, known)
        if next(left, None) is not None:
            raise RecordsUnavailable
        return result

    return desk.runner_with(update=update)


def test_a_claim_whose_answer_was_lost_is_made_again_and_costs_no_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.PAUSE", 0.01)
    done = desk.run(lossy(desk, 3), num_inference_steps=1)
    assert (done.status, done.attempt, done.failed_attempts) == (JobStatus.SUCCEEDED, 1, 0)


def test_a_claim_that_was_taken_back_before_it_is_made_again_is_given_up(desk: Desk) -> None:
    job_id, tries = desk.accept(num_inference_steps=1), []

    def update(_: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
        tries.append(transition)
        result = desk.update(job_id, transition, known)
        desk.update(job_id, partial(fail_attempt, attempt=1, reason="silent", limit=3, now=NOW))
        assert result
        raise RecordsUnavailable

    assert desk.runner_with(update=update).run(job_id) is None
    assert len(tries) == 2
    left = desk.stored(job_id)
    assert (left.status, left.attempt) == (JobStatus.QUEUED, 1)


def test_a_worker_that_must_go_does_not_wait_for_its_claim(desk: Desk) -> None:
    desk.keeper.end_all(ShuttingDown())
    job_id = desk.accept()
    assert lossy(desk, 1).run(job_id) is None
    assert desk.stored(job_id).status is JobStatus.RUNNING


def test_a_lease_is_renewed_as_soon_as_its_claim_is_answered(desk: Desk) -> None:
    running = desk.update(desk.accept(), start)
    keeper = LeaseKeeper(desk.records, JobStore(timedelta(seconds=60)), Clock(), name="two", life=lambda: LIFE)
    with keeper.hold(running):
        keeper.beat()
    assert int(str(desk.records.pttl(f"lease:{running.id}"))) > 50_000


class Listening(redis.Redis):
    """Tells what it sends before it does."""

    def __init__(self, pool: redis.ConnectionPool, told: Callable[[str], None]) -> None:
        super().__init__(connection_pool=pool)
        self._told = told

    def execute_command(self, *command: Any, **options: Any) -> Any:
        self._told(str(command))
        return super().execute_command(*command, **options)  # type: ignore[no-untyped-call]


def test_leases_are_renewed_before_the_worker_is_announced(desk: Desk, records: redis.Redis) -> None:
    sent: list[str] = []
    keeper = LeaseKeeper(Listening(records.connection_pool, sent.append), STORE, Clock(), name="two", life=lambda: LIFE)
    with keeper.hold(desk.update(desk.accept(), start)) as lease:
        keeper.beat()
    renewed, announced = (next(n for n, text in enumerate(sent) if what in text) for what in (lease.job_id, "worker:"))
    assert renewed < announced


def test_progress_is_told_four_times_a_second_at_most(desk: Desk, records: redis.Redis) -> None:
    sent: list[str] = []
    keeper = LeaseKeeper(Listening(records.connection_pool, sent.append), STORE, Clock(), name="two", life=lambda: LIFE)
    with keeper.hold(desk.update(desk.accept(), start)) as lease:
        began = time.monotonic()
        keeper.start()
        for step in range(800):
            lease.tell([step], 800)
            time.sleep(0.001)
        keeper.stop()
    told = sum(f"progress:{lease.job_id}" in text for text in sent)
    assert 2 <= told <= 4 * (time.monotonic() - began) + 1


def test_a_worker_that_retires_while_it_announces_itself_is_off_the_list(desk: Desk, records: redis.Redis) -> None:
    def retire(text: str) -> None:
        if "SET" in text and "worker:two" in text and not keeper._retired:
            keeper.retire()

    keeper = LeaseKeeper(Listening(records.connection_pool, retire), STORE, Clock(), name="two", life=lambda: LIFE)
    keeper.beat()
    assert keeper._retired
    keeper.beat()
    assert "two" not in run(records, living_workers())
