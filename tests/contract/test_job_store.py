"""The job store on a real Valkey, through both of its drivers."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from shared import assets, dispatch_store, presence
from shared.connections import run, run_async
from shared.dispatch_store import Shares
from shared.errors import LeaseLost, ModelFailed, NotFound, RecordsUnavailable
from shared.ids import JobId, TeamId
from shared.job_index import COMPLETIONS
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.presence import WorkerLife
from shared.programs import Program
from shared.progress import Progress
from shared.transitions import cancel, fail, fail_attempt, finish, hand_back
from tests import queues
from tests.memory import connect_async
from tests.samples import MODEL, NOW, PRICE, record, start, variations_of

STORE = JobStore(timedelta(seconds=1))
Do = Callable[[Program[Any]], Any]


@pytest.fixture(params=["sync", "async"])
def do(request: pytest.FixtureRequest, records: redis.Redis, valkey: str) -> Do:
    """Runs a program, as the worker does and as the API does."""

    async def once(program: Program[Any]) -> Any:
        async with connect_async(valkey) as client:
            return await run_async(client, program)

    if request.param == "sync":
        return partial(run, records)
    return lambda program: asyncio.run(once(program))


def end(job: JobRecord) -> Callable[[JobRecord], JobRecord]:
    return partial(finish, attempt=job.attempt, variations=variations_of(job), model=MODEL, timings={}, now=NOW)


def credit(records: redis.Redis) -> tuple[int, int]:
    """What the team and its user have left."""
    left = records.hget("team:team", "credit"), records.hget("user:user", "credit_left")
    return int(str(left[0])), int(str(left[1]))


def test_an_accepted_job_is_found_again_and_stands_in_the_queue(do: Do) -> None:
    first, second = record(), record(created_at=NOW + timedelta(milliseconds=1))
    assert do(STORE.accept(second))
    assert do(STORE.accept(first))
    assert do(STORE.get(first.id)) == first
    assert do(STORE.report(second.id)).queue_position == 2
    assert do(queues.queued_jobs()) == [first.id, second.id]


def test_a_job_whose_acceptance_is_sent_twice_is_stored_and_paid_once(do: Do, records: redis.Redis) -> None:
    job = record()
    for sent in (job, job.model_copy(update={"failed_attempts": 9})):
        assert do(STORE.accept(sent)) == job.id
    assert do(STORE.get(job.id)) == job
    assert credit(records) == (1_000_000 - PRICE, 1_000_000 - PRICE)


def test_an_unknown_job_cannot_be_changed(do: Do) -> None:
    assert do(STORE.report(JobId("none"))) is None
    with pytest.raises(NotFound, match="none"):
        do(STORE.update(JobId("none"), start))


def test_a_claim_moves_the_job_and_takes_its_lease(do: Do) -> None:
    job = record()
    do(STORE.accept(job))
    (waiting,) = do(dispatch_store.waiting(do(dispatch_store.backlog()), 9))
    assert do(dispatch_store.mark_published([waiting], (), Shares(1, {waiting.queue.team_id: 1}), 5))
    assert do(queues.published_jobs()) == [job.id]
    assert not do(dispatch_store.mark_published([waiting], (), Shares(1, {waiting.queue.team_id: 1}), 5))
    running = do(STORE.update(job.id, start))
    assert do(STORE.get(job.id)) == running
    assert do(queues.queued_jobs()) == []
    assert do(queues.published_jobs()) == []
    assert do(dispatch_store.backlog()) == {waiting.queue: 0}
    assert do(STORE.running())[1] == []


def test_a_transition_that_raises_changes_nothing(do: Do) -> None:
    job = record()
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    with pytest.raises(LeaseLost):
        do(STORE.update(job.id, partial(hand_back, attempt=2, now=NOW)))
    assert do(STORE.get(job.id)) == running


def test_a_change_that_comes_between_makes_the_transition_run_again(do: Do, records: redis.Redis) -> None:
    job = record()
    do(STORE.accept(job))
    seen: list[int] = []

    def claim_after_another_came_and_went(before: JobRecord) -> JobRecord:
        if not seen:
            other = run(records, STORE.update(job.id, start))
            run(records, STORE.update(job.id, partial(hand_back, attempt=other.attempt, now=NOW)))
        seen.append(before.attempt)
        return start(before)

    assert do(STORE.update(job.id, claim_after_another_came_and_went)).attempt == 2
    assert seen == [0, 1]


def test_a_record_that_is_known_still_is_not_read_again_and_one_that_changed_is(do: Do, records: redis.Redis) -> None:
    job = record()
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    seen: list[JobRecord] = []

    def hand_on(before: JobRecord) -> JobRecord:
        seen.append(before)
        return hand_back(before, attempt=1, now=NOW)

    assert do(STORE.update(job.id, hand_on, known=running)).version == running.version + 1
    assert seen == [running]
    canceled = do(STORE.update(job.id, partial(cancel, now=NOW)))
    with pytest.raises(LeaseLost):
        do(STORE.update(job.id, hand_on, known=running))
    assert seen == [running, running, canceled]
    records.delete(f"job:{job.id}")
    with pytest.raises(NotFound):
        do(STORE.update(job.id, hand_on, known=running))


def test_only_one_of_many_claims_wins(valkey: str, records: redis.Redis) -> None:
    job = record()
    run(records, STORE.accept(job))

    async def claim_all() -> list[Any]:
        async with connect_async(valkey) as client:
            claims = (run_async(client, STORE.update(job.id, start)) for _ in range(20))
            return await asyncio.gather(*claims, return_exceptions=True)

    outcomes = asyncio.run(claim_all())
    assert [type(outcome) for outcome in outcomes].count(JobRecord) == 1


def test_finishing_tells_it_once_gives_the_variations_an_owner_and_takes_their_price(
    do: Do, records: redis.Redis
) -> None:
    job = record(num_outputs=2)
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    done = do(STORE.update(job.id, end(running)))
    assert do(STORE.update(job.id, end(running))) == done
    entries: Any = records.xrange(COMPLETIONS)
    assert [fields for _, fields in entries] == [{"id": job.id, "status": "succeeded"}]
    assert credit(records) == (1_000_000 - PRICE, 1_000_000 - PRICE)
    for key in running.planned_keys:
        assert do(assets.find(key, TeamId("team"))).content_type == "image/webp"
        assert do(assets.find(key, TeamId("other"))) is None


def test_a_failed_job_is_told_and_costs_nothing(do: Do, records: redis.Redis) -> None:
    job = record()
    do(STORE.accept(job))
    do(STORE.update(job.id, start))
    failed = do(STORE.update(job.id, partial(fail, attempt=1, error=ModelFailed("broken"), now=NOW)))
    assert failed.failure.message == "broken"
    entries: Any = records.xrange(COMPLETIONS)
    assert [fields["status"] for _, fields in entries] == ["failed"]
    assert credit(records) == (1_000_000, 1_000_000)


def test_a_lease_lapses_and_the_job_is_taken_back_to_its_old_place(do: Do, sleep: Callable[[float], None]) -> None:
    job, younger = record(), record(created_at=NOW + timedelta(seconds=1))
    for each in (job, younger):
        do(STORE.accept(each))
    do(STORE.update(job.id, start))
    lose = partial(fail_attempt, attempt=1, reason="silent", limit=3, now=NOW)
    assert do(STORE.take_back(job.id, lose)) is None
    sleep(1.1)
    assert do(STORE.running()) == ([], [job.id])
    assert do(STORE.take_back(job.id, lose)).status is JobStatus.QUEUED
    assert do(queues.queued_jobs()) == [job.id, younger.id]
    with pytest.raises(LeaseLost):
        do(STORE.renew(job.id, 1, None))


def test_a_job_that_ended_is_not_taken_back(do: Do) -> None:
    job = record()
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    done = do(STORE.update(job.id, end(running)))
    assert do(STORE.take_back(job.id, partial(fail_attempt, attempt=1, reason="", limit=3, now=NOW))) is None
    assert do(STORE.get(job.id)) == done


def test_a_lease_that_is_renewed_at_the_last_moment_keeps_its_job(
    do: Do, records: redis.Redis, sleep: Callable[[float], None]
) -> None:
    job = record()
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    sleep(1.1)

    def lose_while_it_is_renewed(before: JobRecord) -> JobRecord:
        run(records, STORE.renew(job.id, 1, None))
        return fail_attempt(before, attempt=1, reason="silent", limit=3, now=NOW)

    assert do(STORE.take_back(job.id, lose_while_it_is_renewed)) is None
    assert do(STORE.get(job.id)) == running


def test_an_expired_lease_that_nobody_took_is_still_its_holders(do: Do, sleep: Callable[[float], None]) -> None:
    job = record()
    do(STORE.accept(job))
    running = do(STORE.update(job.id, start))
    sleep(1.1)
    do(STORE.renew(job.id, 1, Progress(3, 28)))
    assert do(STORE.running())[1] == []
    assert do(STORE.report(job.id)).progress == Progress(3, 28)  # as workers of an earlier release tell it
    do(STORE.renew(job.id, 1, Progress(4, 28, (5, 3))))
    assert do(STORE.report(job.id)).progress == Progress(4, 28, (5, 3))
    assert do(STORE.update(job.id, end(running))).status is JobStatus.SUCCEEDED


def test_progress_ends_with_the_attempt(do: Do) -> None:
    job = record()
    do(STORE.accept(job))
    do(STORE.update(job.id, start))
    do(STORE.renew(job.id, 1, Progress(3, 28)))
    do(STORE.update(job.id, partial(hand_back, attempt=1, now=NOW)))
    do(STORE.update(job.id, start))
    assert do(STORE.report(job.id)).progress is None


def test_two_dispatchers_never_lead_at_once(do: Do, sleep: Callable[[float], None]) -> None:
    soon = timedelta(seconds=0.3)
    assert do(presence.lead("one", soon))
    assert not do(presence.lead("two", soon))
    assert do(presence.lead("one", soon))
    sleep(0.4)
    assert do(presence.lead("two", soon))
    do(presence.step_down("one"))
    assert do(presence.leader()) == "two"
    do(presence.step_down("two"))
    assert do(presence.lead("one", soon))


def test_a_worker_is_counted_while_it_gives_signs_of_life(do: Do, sleep: Callable[[float], None]) -> None:
    do(presence.announce_worker("one", queues.LIFE, timedelta(seconds=0.3)))
    two = WorkerLife(slots=3, speed=1.5, ahead=2, gpu="GPU-7")
    do(presence.announce_worker("two", two, timedelta(seconds=9)))
    assert do(presence.living_workers()) == {"one": queues.LIFE, "two": two}
    sleep(0.4)
    assert do(presence.living_workers()) == {"two": two}
    do(presence.retire_worker("two"))
    assert do(presence.living_workers()) == {}


def test_the_doorbell_wakes_once_however_often_it_was_rung(do: Do) -> None:
    for _ in range(3):
        do(STORE.accept(record()))
    started = time.monotonic()
    do(dispatch_store.wait_for_ring(timedelta(seconds=1)))
    assert time.monotonic() - started < 0.5
    do(dispatch_store.wait_for_ring(timedelta(seconds=0.5)))
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("valkey", ["valkey"], indirect=True)
def test_a_server_that_is_gone_is_named_as_such(records: redis.Redis) -> None:
    records.connection_pool.connection_kwargs["port"] = 1
    records.connection_pool.disconnect()
    with pytest.raises(RecordsUnavailable, match="does not answer"):
        run(records, STORE.get(JobId("any")))


@pytest.mark.parametrize("valkey", ["valkey"], indirect=True)
def test_a_full_server_refuses_a_job_whole(do: Do, records: redis.Redis) -> None:
    records.config_set("maxmemory", "1")
    job = record()
    with pytest.raises(RecordsUnavailable, match="takes no writes"):
        do(STORE.accept(job))
    records.config_set("maxmemory", "0")
    assert do(STORE.get(job.id)) is None
    assert do(queues.queued_jobs()) == []


def test_an_error_that_is_not_understood_passes_as_it_is(records: redis.Redis) -> None:
    records.set("job:odd", "a string where a hash should be")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        run(records, STORE.get(JobId("odd")))


@pytest.mark.parametrize("limit", [1, 5, 13, 14, 15])
def test_pages_lead_once_through_all_jobs_even_those_of_one_microsecond(do: Do, limit: int) -> None:
    for after_now in (0, *[1] * 12, 2):
        do(STORE.accept(record(created_at=NOW + timedelta(microseconds=after_now))))
    everything, _ = do(STORE.page("jobs", [JobStatus.QUEUED], limit=100))
    assert everything == sorted(everything, key=lambda job: (job.created_at, job.id), reverse=True)
    found: list[JobRecord] = []
    page, after = do(STORE.page("team:team", [JobStatus.QUEUED], limit=limit))
    while page:
        assert len(page) == limit or after is None
        found += page
        do(STORE.accept(record(created_at=NOW + timedelta(days=1))))  # what is newer than the cursor stays before it
        page, after = do(STORE.page("team:team", [JobStatus.QUEUED], limit=limit, after=after)) if after else ([], None)
    assert found == everything
    assert len(found) == 14


def test_a_page_of_several_statuses_is_in_one_order(do: Do) -> None:
    jobs = [record(created_at=NOW + timedelta(seconds=n)) for n in range(6)]
    for job in jobs:
        do(STORE.accept(job))
    for job in jobs[::2]:
        do(STORE.update(job.id, partial(cancel, now=NOW)))
    do(STORE.update(jobs[1].id, start))
    do(STORE.update(jobs[1].id, partial(fail, attempt=1, error=ModelFailed("broken"), now=NOW)))
    ended, more = do(STORE.page("team:team", [JobStatus.FAILED, JobStatus.CANCELED], limit=3))
    assert [job.id for job in ended] == [jobs[4].id, jobs[2].id, jobs[1].id]
    ended, more = do(STORE.page("team:team", [JobStatus.FAILED, JobStatus.CANCELED], limit=3, after=more))
    assert ([job.id for job in ended], more) == ([jobs[0].id], None)
    assert do(STORE.page("team:other", list(JobStatus), limit=3)) == ([], None)
