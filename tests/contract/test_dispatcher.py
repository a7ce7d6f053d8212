"""The dispatcher's rounds, on a real Valkey; the test plays the workers."""

import time
from datetime import timedelta

import pytest
import redis

from api.dispatcher import Dispatcher
from shared import dispatch_store
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.programs import connect, run
from shared.queue import QUEUE, make_celery
from shared.settings import DispatcherSettings, JobsSettings, Settings
from tests.samples import record, start

STORE = JobStore(timedelta(seconds=1))
SETTINGS = Settings(
    jobs=JobsSettings(lease_seconds=timedelta(seconds=1)),
    dispatcher=DispatcherSettings(republish_seconds=timedelta(seconds=1)),
)


@pytest.fixture
def dispatcher(valkey: str, records: redis.Redis) -> Dispatcher:
    run(records, dispatch_store.announce_worker("one", 2, timedelta(minutes=1)))
    return Dispatcher(SETTINGS, records, make_celery(f"{valkey}/1"))


def accept(records: redis.Redis) -> JobId:
    job = record()
    run(records, STORE.accept(job))
    return job.id


def stored(records: redis.Redis, job_id: JobId) -> JobRecord:
    job = run(records, STORE.get(job_id))
    assert job is not None
    return job


def test_a_new_leader_gives_every_lease_the_time_to_be_renewed(dispatcher: Dispatcher, records: redis.Redis) -> None:
    job_id = accept(records)
    run(records, STORE.update(job_id, start))
    time.sleep(1.1)
    assert run(records, STORE.unleased()) == [job_id]
    dispatcher.round()
    assert stored(records, job_id).status is JobStatus.RUNNING
    time.sleep(1.1)
    dispatcher.round()
    assert stored(records, job_id).failed_attempts == 1


def test_a_restart_of_the_records_server_does_too(
    dispatcher: Dispatcher, records: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.round()
    time.sleep(1.1)
    monkeypatch.setattr(dispatcher, "_server_run", "the run before")
    job_id = accept(records)
    run(records, STORE.update(job_id, start))
    records.delete(f"lease:{job_id}")
    dispatcher.round()
    assert stored(records, job_id).status is JobStatus.RUNNING


def test_a_lost_message_does_not_starve_its_job_while_all_slots_are_busy(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    first = accept(records)
    dispatcher.round()
    with connect(f"{valkey}/1") as broker:
        broker.delete(QUEUE)  # a worker took it and was killed before it could claim
        younger = [accept(records), accept(records)]
        dispatcher.round()
        for job_id in younger:
            run(records, STORE.update(job_id, start))
        time.sleep(1.1)
        broker.delete(QUEUE)
        dispatcher.round()
        messages = broker.lrange(QUEUE, 0, -1)
    assert any(first in str(message) for message in messages)


def test_only_the_leader_acts(dispatcher: Dispatcher, records: redis.Redis, valkey: str) -> None:
    standby = Dispatcher(SETTINGS, records, make_celery(f"{valkey}/1"))
    assert dispatcher.round()
    accept(records)
    assert not standby.round()
    assert run(records, dispatch_store.published_jobs()) == {}
    assert dispatcher.round()
    assert len(run(records, dispatch_store.published_jobs())) == 1
