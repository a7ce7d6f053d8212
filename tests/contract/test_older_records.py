"""Jobs that the release before accepted are read, found, claimed and finished by this one."""

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import ValidationError

from api.dispatcher import Dispatcher
from shared import dispatch_store, presence
from shared.clock import Clock
from shared.connections import run
from shared.ids import TeamId
from shared.job_index import COMPLETIONS, Queue, accepted_us
from shared.job_store import JobStore
from shared.jobs import SCHEMA, JobRecord, JobStatus, Lane
from shared.queue import Broker
from shared.settings import Settings
from shared.transitions import erase, finish
from tests import queues
from tests.samples import MODEL, NOW, PRICE, start, variations_of

STORE = JobStore(timedelta(seconds=9))
STORED = (Path(__file__).parents[1] / "records" / f"schema-{SCHEMA - 1}.json").read_text()
QUEUE = Queue(Lane.NORMAL, TeamId("team"))


@pytest.fixture
def job(records: redis.Redis) -> JobRecord:
    """The stored job as the release before left it: in ``jobs:queued`` and its team's open ones, in no queue."""
    job = JobRecord.model_validate_json(STORED)
    fields: Any = {"record": STORED, "version": job.version, "status": job.status.value, "attempt": job.attempt}
    records.hset(f"job:{job.id}", mapping=fields)
    for index in ("jobs:queued", "team:team:open"):
        records.zadd(index, {job.id: accepted_us(job)})
    records.hincrby("team:team", "credit", -PRICE)
    records.hincrby("user:user", "credit_left", -PRICE)
    return job


def succeed(records: redis.Redis, job: JobRecord) -> JobRecord:
    """Claim and finish, as a worker does."""
    running = run(records, STORE.update(job.id, start))
    made = variations_of(running)
    end = partial(finish, attempt=running.attempt, variations=made, model=MODEL, timings={}, now=NOW)
    return run(records, STORE.update(job.id, end))


def test_a_record_of_the_release_before_is_read_whole() -> None:
    job, stored = JobRecord.model_validate_json(STORED), json.loads(STORED)
    assert stored.pop("abandoned_keys")
    again = json.loads(job.model_dump_json(by_alias=True))
    assert {name: again[name] for name in stored} == stored | {"schema": SCHEMA}
    assert (job.lane, job.expires_at, job.webhook, job.deliveries) == (Lane.NORMAL, None, None, ())


@pytest.mark.parametrize("change", [{"schema": SCHEMA + 1}, {"schema": SCHEMA}, {"novelty": 1}, {"version": None}])
def test_a_record_of_neither_release_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobRecord.model_validate_json(json.dumps(json.loads(STORED) | change))


def test_a_job_of_the_release_before_is_claimed_and_finished(records: redis.Redis, job: JobRecord) -> None:
    done = succeed(records, job)
    assert (done.status, done.attempt, done.charged, done.schema_number) == (JobStatus.SUCCEEDED, 3, PRICE, SCHEMA)
    assert run(records, STORE.get(job.id)) == done
    assert f'"schema":{SCHEMA}' in str(records.hget(f"job:{job.id}", "record"))
    assert records.xlen(COMPLETIONS) == 1
    assert records.zcard("team:team:open") == records.zcard("jobs:queued") == records.zcard("jobs:running") == 0
    assert records.zrange("jobs:succeeded", 0, -1) == records.zrange("team:team:succeeded", 0, -1) == [job.id]
    assert records.hget("team:team", "credit") == str(1_000_000 - PRICE)
    run(records, STORE.update(job.id, partial(erase, now=NOW)))
    assert set(map(str, records.zrange("objects:orphaned", 0, -1))) == {*done.planned_keys, job.parameters.source}


def test_a_dispatcher_finds_what_the_release_before_left_in_its_index_alone(
    records: redis.Redis, valkey: str, job: JobRecord
) -> None:
    run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
    broker = Broker(f"{valkey}/1")
    dispatcher = Dispatcher(Settings(), records, broker, Clock())
    dispatcher.round()
    dispatcher.round()
    assert broker.waiting() == {job.id}
    assert run(records, queues.published_jobs()) == [job.id]
    assert run(records, dispatch_store.backlog()) == {QUEUE: job.parameters.work}
    succeed(records, job)
    assert run(records, queues.published_jobs()) == []
    assert run(records, dispatch_store.backlog()) == {QUEUE: 0}


def test_a_job_that_is_claimed_before_it_was_found_leaves_no_hole_in_the_backlog(
    records: redis.Redis, valkey: str, job: JobRecord
) -> None:
    succeed(records, job)
    Dispatcher(Settings(), records, Broker(f"{valkey}/1"), Clock()).round()
    assert run(records, dispatch_store.backlog()) == {}
