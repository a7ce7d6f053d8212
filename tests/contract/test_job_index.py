"""What a change of a job's record means elsewhere: credits, indices, deadlines, webhook calls."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis

from shared.connections import run
from shared.errors import InsufficientCredits, ModelFailed
from shared.ids import JobId
from shared.job_index import COMPLETIONS, DELIVERIES, EXPIRING
from shared.job_store import JobStore
from shared.jobs import Call, JobRecord, Webhook, WebhookEvent
from shared.transitions import Transition, delivered, erase, expire, fail, finish, hand_back, redeliver, retry
from tests.samples import MODEL, NOW, PRICE, fund, record, start, variations_of

STORE = JobStore(timedelta(seconds=9))
FUNDS = 1_000_000
BOTH = Webhook(url="https://example.com/", events=tuple(WebhookEvent))
BROKEN = partial(fail, error=ModelFailed("broken"), now=NOW)
LATER = NOW + timedelta(hours=1)

Change = Callable[[Transition], JobRecord]
INDICES = ("queued", "running", "succeeded", "failed", "open")


@pytest.fixture
def job(records: redis.Redis) -> JobRecord:
    """A job that waits for ten seconds, runs for twenty and tells a webhook of both."""
    limits = {"max_queue": timedelta(seconds=10), "max_run": timedelta(seconds=20), "webhook": BOTH}
    job = record().model_copy(update=limits)
    run(records, STORE.accept(job))
    return job


@pytest.fixture
def change(records: redis.Redis, job: JobRecord) -> Change:
    return lambda transition: run(records, STORE.update(job.id, transition))


def places(records: redis.Redis, job_id: JobId) -> set[str]:
    """In which of its team's indices a job is; all jobs' say the same."""
    own = {name for name in INDICES if records.zscore(f"team:team:{name}", job_id) is not None}
    everywhere = {name for name in INDICES if records.zscore(f"jobs:{name}", job_id) is not None}
    assert everywhere == own - {"open"}
    return own


def credit(records: redis.Redis) -> int:
    return int(str(records.hget("team:team", "credit")))


def completions(records: redis.Redis) -> list[str]:
    entries: Any = records.xrange(COMPLETIONS)
    return [fields["status"] for _, fields in entries]


def calls(records: redis.Redis) -> dict[str, int]:
    """Which of the job's events are due to be told, and how many seconds after its acceptance."""
    rows: Any = records.zrange(DELIVERIES, 0, -1, withscores=True)
    return {name.split()[-1]: round(float(due) - NOW.timestamp()) for name, due in rows}


def deadline(records: redis.Redis, job_id: JobId) -> float | None:
    """Seconds from acceptance to the job's deadline."""
    score: Any = records.zscore(EXPIRING, job_id)
    return None if score is None else round(float(score) - NOW.timestamp(), 1)


def succeed(job: JobRecord, now: datetime = NOW) -> Transition:
    return partial(finish, attempt=job.attempt, variations=variations_of(job), model=MODEL, timings={}, now=now)


def test_a_job_that_is_tried_again_is_paid_open_and_told_like_a_new_one(
    records: redis.Redis, job: JobRecord, change: Change
) -> None:
    change(start)
    change(partial(BROKEN, attempt=1))
    assert (credit(records), places(records, job.id)) == (FUNDS, {"failed"})
    assert set(calls(records)) == {"job.started", "job.finished"}
    again = change(partial(retry, now=LATER))
    assert change(partial(retry, now=LATER)) == again
    assert (credit(records), places(records, job.id)) == (FUNDS - PRICE, {"queued", "open"})
    assert records.zrange("queue:normal:team", 0, -1) == [job.id]
    assert records.hget("queue:work", "normal:team") == str(job.parameters.work)
    assert set(calls(records)) == {"job.started"}  # nobody is told of an end that has not come
    assert deadline(records, job.id) is None
    done = change(succeed(change(start), LATER))
    assert (done.attempt, done.failed_attempts, done.charged, done.failure) == (2, 0, PRICE, None)
    assert (credit(records), places(records, job.id)) == (FUNDS - PRICE, {"succeeded"})
    assert completions(records) == ["failed", "succeeded"]
    assert calls(records)["job.finished"] == 3600
    assert {told.event: told.at for told in done.deliveries} == {"job.started": NOW, "job.finished": LATER}


def test_a_job_whose_team_cannot_pay_again_is_not_tried_again(
    records: redis.Redis, job: JobRecord, change: Change
) -> None:
    change(start)
    failed = change(partial(BROKEN, attempt=1))
    for team, user in ((PRICE - 1, FUNDS), (FUNDS, PRICE - 1)):
        fund(records, team_credit=team, user_credit=user)
        with pytest.raises(InsufficientCredits, match=f"requires {PRICE} credits"):
            change(partial(retry, now=LATER))
        assert (credit(records), places(records, job.id)) == (team, {"failed"})
    assert run(records, STORE.get(job.id)) == failed


def test_a_job_has_the_deadline_of_where_it_is(records: redis.Redis, job: JobRecord, change: Change) -> None:
    assert deadline(records, job.id) == 10
    change(start)
    assert deadline(records, job.id) == 20
    change(partial(hand_back, attempt=1, now=NOW))
    assert deadline(records, job.id) is None  # it began in time
    change(succeed(change(start)))
    assert deadline(records, job.id) is None


@pytest.mark.parametrize(("begin", "seconds"), [(lambda waiting: waiting, 10), (start, 20)])
def test_a_job_ends_at_its_deadline_and_not_before(
    records: redis.Redis, job: JobRecord, change: Change, begin: Transition, seconds: int
) -> None:
    before = change(begin)
    due = NOW + timedelta(seconds=seconds)
    assert change(partial(expire, now=due - timedelta(milliseconds=1))) == before
    ended = change(partial(expire, now=due))
    assert ended.failure is not None
    assert (ended.failure.code, ended.finished_at) == ("DEADLINE_EXCEEDED", due)
    assert (credit(records), places(records, job.id)) == (FUNDS, {"failed"})
    assert (completions(records), deadline(records, job.id)) == (["failed"], None)
    assert change(partial(expire, now=due + timedelta(hours=1))) == ended
    assert records.exists(f"lease:{job.id}") == 0
    assert "job.finished" in calls(records)
    change(partial(retry, now=LATER))
    assert deadline(records, job.id) is None  # it waited already


def test_a_webhook_call_is_due_until_it_is_made_and_again_when_that_is_asked_for(
    records: redis.Redis, change: Change
) -> None:
    event = WebhookEvent.FINISHED
    change(succeed(change(start)))
    tried = Call(at=NOW, outcome="HTTP 503")
    noted = change(partial(delivered, event=event, made=tried, next_at=LATER, ok=False))
    assert calls(records)[event] == 3600
    assert change(partial(delivered, event=event, made=tried, next_at=None, ok=True)) == noted  # this try is noted
    made = Call(at=LATER, outcome="HTTP 200")
    change(partial(delivered, event=event, made=made, next_at=None, ok=True))
    assert event not in calls(records)
    asked = change(partial(redeliver, event=event, now=LATER))
    assert event in calls(records)
    assert [told.calls for told in asked.deliveries if told.event is event] == [(tried, made)]
    change(partial(erase, now=LATER))
    assert calls(records) == {}
