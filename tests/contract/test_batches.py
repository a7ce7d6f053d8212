"""What a batch's items go through, on a real Valkey."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis

from api.sweeper import Sweeper
from shared import batch_intake, batch_store
from shared.batch_intake import Staged
from shared.batches import STATES, Batch, Line, Lot
from shared.connections import run
from shared.errors import (
    IdempotencyKeyReused,
    IllegalTransition,
    InsufficientCredits,
    InvalidRequest,
    ModelFailed,
    NotFound,
    TooManyRequests,
    UnreadableRecord,
)
from shared.idempotency import Once, keyed
from shared.ids import AssetKey, BatchId, KeyId, TeamId, UserId
from shared.job_store import JobStore
from shared.jobs import BatchEvent, Failure, Item, JobRecord, JobStatus, Webhook
from shared.keys import ApiKey
from shared.object_store import ObjectStore
from shared.settings import Settings, TeamsSettings
from shared.transitions import cancel, erase, fail, finish, hand_back, retry
from tests.contract.test_sweeper import Later
from tests.samples import MODEL, NOW, PRICE, fund, record, start, variations_of

STORE = JobStore(timedelta(seconds=9))
TEAM = TeamId("team")
CALLER = ApiKey(
    id=KeyId("key"), team_id=TEAM, team_name="lab", user_id=UserId("user"), user_name="Ada", digest="", created_at=NOW
)
LIMITS = TeamsSettings(open_batches=9)
FAILED = partial(fail, attempt=1, error=ModelFailed("broken"), now=NOW)


def batch(name: str = "one", at: datetime = NOW) -> Batch:
    return Batch(
        id=BatchId(name),
        team_id=TEAM,
        caller=CALLER,
        request_id="r",
        metadata="{}",
        low_priority=True,
        webhook=Webhook(url="https://example.com/", events=(BatchEvent.FINISHED,)),
        work=10,
        size_bytes=1000,
        created_at=at,
        updated_at=at,
    )


def accept(
    records: redis.Redis, new: Batch, items: int = 3, *, limits: TeamsSettings = LIMITS, once: Once | None = None
) -> BatchId:
    run(records, batch_intake.stage(new.id, {line: Staged(Line()) for line in range(2, 2 + items)}))
    return run(records, batch_intake.accept(new, items, items * PRICE, limits=limits, once=once))


@pytest.fixture
def one(records: redis.Redis) -> BatchId:
    """A batch with items on the lines 2 to 4."""
    return accept(records, batch())


def job_of(records: redis.Redis, batch_id: BatchId, line: int) -> JobRecord:
    job = record().model_copy(update={"item": Item(batch_id=batch_id, line=line)})
    run(records, STORE.accept(job))
    return job


def change(records: redis.Redis, job: JobRecord, *transitions: Callable[[JobRecord], JobRecord]) -> JobRecord:
    for transition in transitions:
        job = run(records, STORE.update(job.id, transition))
    return job


def made(job: JobRecord) -> JobRecord:
    return finish(job, attempt=job.attempt, variations=variations_of(job), model=MODEL, timings={}, now=NOW)


def states(records: redis.Redis, batch_id: BatchId) -> dict[str, list[int]]:
    """The lines in each state, of those that have any."""
    found: dict[str, list[int]] = {}
    for state in STATES:
        for entry in run(records, batch_store.entries(batch_id, [state], limit=100, after=0)):
            found.setdefault(state, []).append(entry.number)
    return found


def keys_of(records: redis.Redis, batch_id: BatchId) -> set[str]:
    found: Any = records.keys(f"batch:{batch_id}*")
    return set(found)


def test_what_is_staged_is_seen_by_nobody_and_leaves_if_nothing_comes_of_it(records: redis.Redis) -> None:
    broken = Failure(code="C", name="N", message="m")
    items = {1: Staged(Line()), 2: Staged(Line(), broken)}
    run(records, batch_intake.stage(BatchId("one"), items))
    assert run(records, batch_store.report(BatchId("one"))) is None
    assert run(records, batch_store.living()) == []
    assert states(records, BatchId("one")) == {"waiting": [1], "invalid": [2]}
    assert all(0 < int(str(records.ttl(key))) <= 3600 for key in keys_of(records, BatchId("one")))


def test_an_accepted_batch_is_there_for_good(records: redis.Redis, one: BatchId) -> None:
    assert run(records, batch_store.living()) == [one]
    assert [found for found, _ in run(records, batch_store.page(TEAM, 10, None))] == [one]
    assert states(records, one) == {"waiting": [2, 3, 4]}
    assert {int(str(records.ttl(key))) for key in keys_of(records, one)} == {-1}
    assert (
        run(records, batch_intake.accept(batch(), 3, 3 * PRICE, limits=LIMITS, once=None)) == one
    )  # the same call, sent again


def test_a_batch_is_accepted_once_with_all_its_items_for_a_team_that_can_pay(records: redis.Redis) -> None:
    once = keyed(TEAM, "key", "asked")
    assert accept(records, batch("one"), once=once) == "one"
    assert accept(records, batch("two"), once=once) == "one"
    assert keys_of(records, BatchId("two")) == set()
    with pytest.raises(IdempotencyKeyReused):
        accept(records, batch("three"), once=keyed(TEAM, "key", "something else"))
    with pytest.raises(TooManyRequests, match="1 batches"):
        accept(records, batch("four"), limits=TeamsSettings(open_batches=1))
    with pytest.raises(TooManyRequests, match="more than 1999 bytes; DELETE"):
        accept(records, batch("four"), limits=TeamsSettings(batch_bytes=1999))
    with pytest.raises(InvalidRequest, match="forgotten"):
        run(records, batch_intake.accept(batch("five"), 3, 0, limits=LIMITS, once=None))
    fund(records, team_credit=3 * PRICE - 1)
    with pytest.raises(InsufficientCredits, match=f"requires {3 * PRICE} credits"):
        accept(records, batch("six"))


def test_an_item_becomes_one_job_in_the_commit_that_accepts_it(records: redis.Redis, one: BatchId) -> None:
    job = job_of(records, one, 3)
    assert states(records, one) == {"waiting": [2, 4], "queued": [3]}
    with pytest.raises(IllegalTransition, match="no longer waits"):
        job_of(records, one, 3)
    assert int(str(records.zcard("team:team:open"))) == 1
    change(records, job, start)
    assert states(records, one) == {"waiting": [2, 4], "running": [3]}
    change(records, job, partial(hand_back, attempt=1, now=NOW))
    assert states(records, one) == {"waiting": [2, 4], "queued": [3]}


def test_a_batch_keeps_what_became_of_its_jobs_when_they_are_gone(records: redis.Redis, one: BatchId) -> None:
    done, failed, canceled = (job_of(records, one, line) for line in (2, 3, 4))
    done = change(records, done, start, made)
    change(records, failed, start, FAILED)
    change(records, canceled, partial(cancel, now=NOW))
    for job in (done, failed, canceled):
        run(records, STORE.forget(change(records, job, partial(erase, now=NOW))))
    entries = run(records, batch_store.entries(one, STATES, limit=10, after=0))
    assert [(entry.number, entry.state) for entry in entries] == [(2, "succeeded"), (3, "failed"), (4, "canceled")]
    assert [entry.outcome.record_id for entry in entries] == [done.id, failed.id, canceled.id]
    assert entries[0].outcome.keys == tuple(variation.key for variation in done.variations)
    assert [entry.outcome.failure and entry.outcome.failure.code for entry in entries] == [
        None,
        "MODEL_FAILED",
        "CANCELED",
    ]
    report = run(records, batch_store.report(one))
    assert report
    assert (report.charged, report.counts.open) == (PRICE, 0)


def test_a_job_of_a_batch_is_tried_again_by_the_batch_alone(records: redis.Redis, one: BatchId) -> None:
    job = change(records, job_of(records, one, 2), start, FAILED)
    with pytest.raises(IllegalTransition, match="POST /api/batches/one/retry"):
        change(records, job, partial(retry, now=NOW))
    run(records, batch_store.retry(one, NOW))
    assert states(records, one) == {"waiting": [2, 3, 4]}
    again = job_of(records, one, 2)
    change(records, again, start, made)
    assert states(records, one) == {"succeeded": [2], "waiting": [3, 4]}


def test_cancel_ends_what_waits_and_nothing_that_is_a_job(records: redis.Redis, one: BatchId) -> None:
    job_of(records, one, 2)
    canceled = run(records, batch_store.cancel(one, NOW))
    assert canceled.canceled_at == NOW
    assert states(records, one) == {"queued": [2], "canceled": [3, 4]}
    assert run(records, batch_store.cancel(one, NOW + timedelta(1))).canceled_at == NOW
    with pytest.raises(IllegalTransition):
        job_of(records, one, 3)


def test_a_batch_ends_when_all_its_items_have_and_tells_its_webhook(records: redis.Redis, one: BatchId) -> None:
    assert not run(records, batch_store.finish(one, 0, NOW))  # items are open
    run(records, batch_store.cancel(one, NOW))
    assert not run(records, batch_store.finish(one, 0, NOW))  # it changed meanwhile
    assert run(records, batch_store.finish(one, 1, NOW))
    assert run(records, batch_store.living()) == []
    assert records.zrange("webhooks:due", 0, -1) == [f"team {one} batch.finished"]
    again = run(records, batch_store.retry(one, NOW))
    assert (again.finished_at, again.canceled_at) == (None, None)
    assert run(records, batch_store.living()) == [one]
    assert records.zrange("webhooks:due", 0, -1) == []
    assert run(records, batch_store.ended_before(NOW + timedelta(1), 10)) == []


def test_an_item_that_cannot_become_a_job_fails_only_while_it_waits(records: redis.Redis, one: BatchId) -> None:
    job_of(records, one, 2)
    for line in (2, 3):
        run(records, batch_store.fail_item(Item(batch_id=one, line=line), ModelFailed("no")))
    assert states(records, one) == {"queued": [2], "failed": [3], "waiting": [4]}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("tried_again", [False, True])
def test_a_job_that_comes_back_when_its_item_was_given_up_moves_it_no_more(
    records: redis.Redis, one: BatchId, *, finished: bool, tried_again: bool
) -> None:
    lost = change(records, job_of(records, one, 2), start)
    text = str(records.hget(f"job:{lost.id}", "record"))
    records.hset(f"job:{lost.id}", "record", '{"schema": 99}')
    run(records, STORE.or_set_aside(lost.id, STORE.get(lost.id)))
    gone = UnreadableRecord("it is gone")
    run(records, batch_store.fail_item(Item(batch_id=one, line=2), gone, JobStatus.RUNNING))
    expected = {"failed": [2], "waiting": [3, 4]}
    if tried_again:
        run(records, batch_store.retry(one, NOW))
        change(records, job_of(records, one, 2), start)
        expected = {"running": [2], "waiting": [3, 4]}
    records.hset(f"job:{lost.id}", "record", text)
    if finished:  # by a worker of the newer release
        assert change(records, lost, made).item is None
    assert not run(records, STORE.adopt(lost.id, NOW))
    ended = run(records, STORE.get(lost.id))
    assert ended
    assert ended.status == ("succeeded" if finished else "canceled")
    assert states(records, one) == expected
    assert records.zcard("jobs:unreadable") == 0


def test_lines_that_say_nothing_are_not_tried_again(records: redis.Redis) -> None:
    broken = Failure(code="C", name="N", message="m")
    items = {1: Staged(Line(), broken), 2: Staged(Line())}
    run(records, batch_intake.stage(BatchId("one"), items))
    run(records, batch_intake.accept(batch(), 2, 0, limits=LIMITS, once=None))
    run(records, batch_store.fail_item(Item(batch_id=BatchId("one"), line=2), ModelFailed("no")))
    run(records, batch_store.retry(BatchId("one"), NOW))
    assert states(records, BatchId("one")) == {Lot.INVALID: [1], Lot.WAITING: [2]}


def test_a_manifest_that_comes_late_is_of_no_batch_and_is_deleted(records: redis.Redis, one: BatchId) -> None:
    asked = run(records, batch_store.cancel(one, NOW)).model_copy(update={"version": 1})
    first = run(records, batch_store.plan_end(asked, AssetKey("batches/first"), NOW))
    assert first
    second = run(records, batch_store.plan_end(first, AssetKey("batches/second"), NOW))
    assert second
    assert not run(records, batch_store.finish(one, first.version, NOW))
    assert run(records, batch_store.finish(one, second.version, NOW))
    ended = run(records, batch_store.get(one))
    assert ended
    assert ended.results_key == "batches/second"
    assert records.zrange("objects:orphaned", 0, -1) == ["batches/first"]
    run(records, batch_store.retry(one, NOW))
    assert records.zrange("objects:orphaned", 0, -1) == ["batches/first", "batches/second"]


def test_a_batch_with_items_that_have_not_ended_plans_no_end(records: redis.Redis, one: BatchId) -> None:
    asked = run(records, batch_store.get(one))
    assert asked
    assert run(records, batch_store.plan_end(asked, AssetKey("batches/first"), NOW)) is None


def test_a_batch_that_was_stored_before_its_layout_had_a_number_is_read(records: redis.Redis, one: BatchId) -> None:
    text = batch().model_dump(mode="json", exclude={"schema_number", "size_bytes", "results_key"})
    records.hset(f"batch:{one}", "record", json.dumps(text | {"defaults": '{"num_outputs": 2}'}))
    old = run(records, batch_store.get(one))
    assert old == batch().model_copy(update={"defaults": '{"num_outputs": 2}', "size_bytes": 0})


def test_a_batch_leaves_with_its_manifest_when_records_do(records: redis.Redis, objects: ObjectStore) -> None:
    one = accept(records, batch())
    going_on = accept(records, batch("two"))
    damaged = accept(records, batch("damaged", NOW - timedelta(seconds=1)))
    key = AssetKey(f"batches/{one}.jsonl")
    objects.put(key, b"{}", "application/jsonl")
    for ending in (one, damaged):
        canceled = run(records, batch_store.cancel(ending, NOW)).model_copy(update={"version": 1})
        assert run(records, batch_store.plan_end(canceled, key, NOW))
        assert run(records, batch_store.finish(ending, 2, NOW))
    records.hset(f"batch:{damaged}", "record", "{}")
    Sweeper(Settings(), records, objects, Later(days=89)).round()
    assert objects.get(key)
    Sweeper(Settings(), records, objects, Later(days=91)).round()
    Sweeper(Settings(), records, objects, Later(days=91, minutes=11)).round()
    with pytest.raises(NotFound):
        objects.get(key)
    assert keys_of(records, one) == set()
    assert records.hgetall("batches:bytes") == {TEAM: "2000"}
    assert [found for found, _ in run(records, batch_store.page(TEAM, 10, None))] == [going_on, damaged]
    assert records.zcard("webhooks:due") == 1


def test_a_page_ends_where_the_next_begins(records: redis.Redis) -> None:
    names = [accept(records, batch(str(number), NOW + timedelta(seconds=number))) for number in range(4)][::-1]
    first = run(records, batch_store.page(TEAM, 3, None))
    rest = run(records, batch_store.page(TEAM, 3, first[-1][1]))
    assert [found for found, _ in (*first, *rest)] == names


def test_counts_are_of_all_states(records: redis.Redis, one: BatchId) -> None:
    job_of(records, one, 2)
    report = run(records, batch_store.report(one))
    assert report
    assert (report.counts.open, report.counts.jobs, report.counts.of[JobStatus.QUEUED]) == (3, 1, 1)
