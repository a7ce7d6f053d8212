"""What the tests of the dispatcher's rounds play: teams that submit, workers that claim."""

from datetime import UTC, datetime, timedelta

import redis

from shared.connections import run
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord
from shared.settings import DispatcherSettings, JobsSettings, Settings
from tests.samples import record, start

STORE = JobStore(timedelta(seconds=1))
SETTINGS = Settings(
    jobs=JobsSettings(lease_seconds=timedelta(seconds=1)),
    dispatcher=DispatcherSettings(republish_seconds=timedelta(seconds=1), headroom=1),
)


def accept(records: redis.Redis, **fields: object) -> JobId:
    job = record(created_at=datetime.now(UTC)).model_copy(update=fields)
    run(records, STORE.accept(job))
    return job.id


def accept_sized(records: redis.Redis, **parameters: object) -> JobId:
    job = record(created_at=datetime.now(UTC), **parameters)
    run(records, STORE.accept(job))
    return job.id


def stored(records: redis.Redis, job_id: JobId) -> JobRecord:
    job = run(records, STORE.get(job_id))
    assert job is not None
    return job


def hold(records: redis.Redis, *jobs: JobId) -> None:
    """Claim jobs as a worker that never falls silent."""
    for job_id in jobs:
        run(records, STORE.update(job_id, start))
        records.persist(f"lease:{job_id}")
