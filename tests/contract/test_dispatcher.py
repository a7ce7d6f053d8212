"""The dispatcher's rounds, on a real Valkey; the test plays the workers."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event

import pytest
import redis

from api.dispatch_look import look
from api.dispatcher import ROUND, Dispatcher
from shared import dispatch_store, presence
from shared.clock import Clock
from shared.connections import connect, run
from shared.ids import JobId, TeamId
from shared.job_index import DOORBELL, Queue
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus, Lane
from shared.queue import QUEUE, Broker
from shared.transitions import cancel, fail_attempt, finish
from tests import queues
from tests.contract.rounds import SETTINGS, STORE, accept, hold, stored
from tests.samples import MODEL, record, start, variations_of


def test_a_new_leader_gives_every_lease_the_time_to_be_renewed(dispatcher: Dispatcher, records: redis.Redis) -> None:
    job_id = accept(records)
    run(records, STORE.update(job_id, start))
    time.sleep(1.1)
    assert run(records, STORE.running()) == ([], [job_id])
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
    monkeypatch.setattr(dispatcher, "_led_at", time.monotonic())  # or it would look for that anyway
    job_id = accept(records)
    run(records, STORE.update(job_id, start))
    records.delete(f"lease:{job_id}")
    dispatcher.round()
    assert stored(records, job_id).status is JobStatus.RUNNING


def test_a_message_that_neither_broker_nor_worker_has_is_sent_again(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis, valkey: str
) -> None:
    first, second = accept(records), accept(records)
    dispatcher.round()
    assert broker.waiting() == {first, second}
    with connect(f"{valkey}/1") as client:
        client.rpop(QUEUE)  # a worker took it and was killed before it could claim
    assert broker.waiting() == {second}
    dispatcher.round()
    assert broker.waiting() == {second}  # it may be on its way to a claim
    time.sleep(1.1)
    dispatcher.round()
    assert broker.waiting() == {first, second}
    with connect(f"{valkey}/1") as client:
        assert client.llen(QUEUE) == 2


def test_a_look_counts_all_messages_and_reads_only_the_oldest(records: redis.Redis) -> None:
    jobs = [accept(records) for _ in range(4)]
    records.zadd("jobs:published", {job_id: at for at, job_id in enumerate(jobs[:3], start=1)})
    asked = look(STORE, wait=None, wants_room=False, now=datetime.now(UTC), limit=2)
    seen = run(records, asked)
    assert seen.messages == (1, 3, {jobs[0]: 1, jobs[1]: 2})
    assert seen._replace(at=11).overdue(timedelta(seconds=10)) == [jobs[0]]


def test_a_message_that_waits_for_a_busy_worker_is_not_sent_again(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    accept(records)
    dispatcher.round()
    time.sleep(1.1)
    dispatcher.round()
    with connect(f"{valkey}/1") as client:
        assert client.llen(QUEUE) == 1


def test_a_job_that_ended_while_its_message_was_lost_is_forgotten(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    job_id = accept(records)
    dispatcher.round()
    run(records, STORE.update(job_id, partial(cancel, now=datetime.now(UTC))))
    records.zadd("jobs:published", {job_id: 1})  # as if it had been marked in that moment
    with connect(f"{valkey}/1") as client:
        client.delete(QUEUE)
        dispatcher.round()
        assert client.llen(QUEUE) == 0
    assert run(records, queues.published_jobs()) == []


def test_only_the_leader_acts(dispatcher: Dispatcher, broker: Broker, records: redis.Redis) -> None:
    standby = Dispatcher(SETTINGS, records, broker, Clock())
    assert dispatcher.round()
    accept(records)
    assert not standby.round()
    assert run(records, queues.published_jobs()) == []
    assert dispatcher.round()
    assert len(run(records, queues.published_jobs())) == 1


def test_no_more_is_published_than_workers_can_take_and_teams_take_turns(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    greedy = [accept(records) for _ in range(5)]
    for name in ("team:late", "team:team"):
        records.hset(name, mapping={"credit": 10**9})
    late = accept(records, team_id=TeamId("late"))
    dispatcher.round()  # two slots and the headroom
    assert broker.waiting() == {greedy[0], greedy[1], late}


def test_a_job_that_leaves_its_slot_rings_only_while_others_wait_for_room(
    dispatcher: Dispatcher, records: redis.Redis
) -> None:
    jobs = [accept(records) for _ in range(5)]

    def rings_when_one_ends() -> bool:
        records.delete(DOORBELL)
        run(records, STORE.update(jobs.pop(0), partial(cancel, now=datetime.now(UTC))))
        return bool(records.llen(DOORBELL))

    dispatcher.round()  # two slots and the headroom
    dispatcher.round()  # asks for the ring, and looks whether it was too late for that
    assert [rings_when_one_ends() for _ in range(2)] == [True, False]  # once is enough
    dispatcher.round()  # asks once more, and publishes the last two
    assert rings_when_one_ends()
    dispatcher.round()
    assert not rings_when_one_ends()


def test_jobs_that_were_left_are_looked_at_again_before_it_waits(
    dispatcher: Dispatcher, records: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, stop, play = list[timedelta | None](), Event(), dispatcher.round

    def watched(wait: timedelta | None = None) -> bool:
        waits.append(wait)
        if len(waits) == 3:
            stop.set()
        return play(wait)

    monkeypatch.setattr(dispatcher, "round", watched)
    for _ in range(5):
        accept(records)
    dispatcher.run(stop)
    assert waits == [None, None, ROUND]  # a slot may become free before the wish for it is known


def test_teams_share_the_work_though_one_message_goes_out_at_a_time(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    records.hset("team:late", mapping={"credit": 10**9})
    small = [accept(records) for _ in range(30)]
    large = [accept(records, team_id=TeamId("late"), parameters=record(num_outputs=4).parameters) for _ in range(30)]
    ended: set[JobId] = set()
    for _ in range(20):
        dispatcher.round()
        ended.add(done := min(broker.waiting() - ended))
        run(records, STORE.update(done, partial(cancel, now=datetime.now(UTC))))
    published = broker.waiting()
    assert abs(4 * len(published & set(large)) - len(published & set(small))) <= 4


def test_a_job_past_its_deadline_ends_where_it_is(dispatcher: Dispatcher, broker: Broker, records: redis.Redis) -> None:
    soon = timedelta(milliseconds=300)
    late = accept(records, max_queue=soon)
    slow = accept(records, max_run=soon)
    in_time = accept(records, max_queue=timedelta(hours=1), max_run=timedelta(hours=1))
    run(records, STORE.update(slow, partial(start_now)))
    time.sleep(0.4)
    dispatcher.round()
    for job_id, what in ((late, "waited longer than the 0.3 s"), (slow, "ran longer than the 0.3 s")):
        ended = stored(records, job_id)
        assert ended.failure is not None
        assert (ended.status, ended.failure.code) == (JobStatus.FAILED, "DEADLINE_EXCEEDED")
        assert what in ended.failure.message
    assert stored(records, in_time).status is JobStatus.QUEUED
    assert broker.waiting() == {in_time}
    assert records.hget("team:team", "credit") == str(1_000_000 - 1000)


def start_now(job: JobRecord) -> JobRecord:
    running = start(job)
    return running.model_copy(update={"started_at": datetime.now(UTC)})


def test_a_queued_job_that_no_queue_holds_is_found(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    job_id = accept(records)
    queue = Queue(Lane.NORMAL, TeamId("team"))
    records.delete(queue.place, "queue:work")  # as the release before left it
    dispatcher.round()
    dispatcher.round(wait=timedelta(seconds=10))  # which the first rang for
    assert broker.waiting() == {job_id}
    assert run(records, dispatch_store.backlog())[queue] > 0


def test_a_queue_that_is_empty_is_forgotten_and_one_that_fills_again_is_not(
    dispatcher: Dispatcher, records: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = accept(records)
    dispatcher.round()
    run(records, STORE.update(job_id, partial(cancel, now=datetime.now(UTC))))
    assert list(run(records, dispatch_store.backlog()).values()) == [0]
    monkeypatch.setattr(dispatcher, "_repair_at", 0)
    dispatcher.round()
    assert run(records, dispatch_store.backlog()) == {}
    queue = Queue(Lane.NORMAL, TeamId("team"))
    accept(records)
    run(records, dispatch_store.drop_empty([queue]))
    assert list(run(records, dispatch_store.backlog())) == [queue]


def test_the_dispatcher_tells_what_waits(dispatcher: Dispatcher, records: redis.Redis) -> None:
    life = presence.WorkerLife(slots=2, speed=500)
    run(records, presence.announce_worker("one", life, timedelta(minutes=1)))
    running, *waiting = [accept(records) for _ in range(6)]
    run(records, STORE.update(running, start))
    dispatcher.round()
    told = run(records, queues.told())
    work = stored(records, running).parameters.work
    assert (told.published, told.running, told.running_work) == (0, 1, work)
    assert told.waiting == {"normal:team": (5, 5 * work)}
    assert (told.workers, told.slots, told.speed) == (1, 2, 500)
    report = run(records, STORE.report(waiting[4]))
    assert report is not None
    assert report.queue_position == 3  # two were published
    assert report.estimated_seconds == pytest.approx(work * 3.5 / 500, rel=0.01)


def test_a_leader_that_ends_lets_another_lead_at_once(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    stop = Event()
    stop.set()
    assert dispatcher.round()
    dispatcher.run(stop)
    assert Dispatcher(SETTINGS, records, broker, Clock()).round()


def test_a_record_that_cannot_be_read_keeps_no_other_from_its_worker(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    odd, lost = accept(records), accept(records)
    for job_id in (odd, lost):
        run(records, STORE.update(job_id, start))
        records.delete(f"lease:{job_id}")
    records.hset(f"job:{odd}", "record", "{}")
    dispatcher.round()
    time.sleep(1.1)
    dispatcher.round()
    dispatcher.round(wait=timedelta(seconds=10))  # which the first rang for
    assert stored(records, lost).failed_attempts == 1
    assert broker.waiting() == {lost}


def test_a_job_that_was_set_aside_in_its_queue_hides_no_other(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    odd = accept(records)
    records.hset(f"job:{odd}", "record", "{}")
    run(records, STORE.or_set_aside(odd, STORE.update(odd, start)))
    first = accept(records)
    dispatcher.round()
    run(records, STORE.update(first, start))
    second = accept(records)
    dispatcher.round()
    assert second in broker.waiting()


def test_a_job_whose_record_is_gone_neither_keeps_its_slot_nor_hides_another_for_long(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis, valkey: str
) -> None:
    gone = accept(records)
    records.delete(f"job:{gone}")
    run(records, STORE.or_set_aside(gone, STORE.update(gone, start)))  # as a deadline's end finds it
    assert not run(records, STORE.adopt(gone, datetime.now(UTC)))
    other = accept(records)
    dispatcher.round()
    assert broker.waiting() == {gone, other}
    hold(records, other)
    with connect(f"{valkey}/1") as client:
        client.delete(QUEUE)  # a worker took both, and found no record of one
    alone = accept(records)
    time.sleep(1.1)
    dispatcher.round()
    assert run(records, queues.published_jobs()) == []
    dispatcher.round()
    assert broker.waiting() == {alone}


def test_a_job_that_failed_or_finished_leaves_no_trace_in_the_queues(
    dispatcher: Dispatcher, records: redis.Redis
) -> None:
    failed, finished = accept(records), accept(records)
    for job_id in (failed, finished):
        run(records, STORE.update(job_id, start))
    give_up = partial(fail_attempt, attempt=1, reason="x", limit=1, now=datetime.now(UTC))
    run(records, STORE.update(failed, give_up))
    done = partial(
        finish,
        attempt=1,
        variations=variations_of(stored(records, finished)),
        model=MODEL,
        timings={},
        now=datetime.now(UTC),
    )
    run(records, STORE.update(finished, done))
    dispatcher.round()
    assert records.keys("queue:*") == []
    assert records.keys("jobs:expiring") == []


def test_jobs_that_cannot_be_read_take_nobodys_room_and_come_back_when_they_can(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [accept(records) for _ in range(4)]  # more than the window holds
    texts = {job_id: records.hget(f"job:{job_id}", "record") for job_id in odd}
    for job_id in odd[:2]:
        run(records, STORE.update(job_id, start))
        texts[job_id] = records.hget(f"job:{job_id}", "record")
        records.delete(f"lease:{job_id}")
    for job_id in odd:
        records.hset(f"job:{job_id}", "record", '{"schema": 99}')
    good = accept(records)
    for _ in range(3):
        dispatcher.round()
        with connect(f"{valkey}/1") as client:  # a worker takes what cannot be claimed
            if good not in broker.waiting():
                client.delete(QUEUE)
        time.sleep(1.1)
    assert good in broker.waiting()
    for job_id in odd:
        records.hset(f"job:{job_id}", "record", str(texts[job_id]))
    monkeypatch.setattr(dispatcher, "_repair_at", 0)
    dispatcher.round()
    time.sleep(1.1)
    dispatcher.round()
    assert {stored(records, job_id).status for job_id in odd} == {JobStatus.QUEUED}
    assert set(run(records, queues.queued_jobs())) == {*odd, good}
    assert records.zcard("jobs:unreadable") == 0
    (counted,) = run(records, dispatch_store.backlog()).values()
    assert counted == 5 * stored(records, good).parameters.work


def test_a_job_that_was_set_aside_keeps_its_deadline(dispatcher: Dispatcher, records: redis.Redis) -> None:
    waiting, running = (accept(records, **{limit: timedelta(days=1)}) for limit in ("max_queue", "max_run"))
    run(records, STORE.update(running, start))
    limits = records.zrange("jobs:expiring", 0, -1, withscores=True)
    assert len(limits) == 2
    for job_id in (waiting, running):
        text = str(records.hget(f"job:{job_id}", "record"))
        records.hset(f"job:{job_id}", "record", '{"schema": 99}')
        run(records, STORE.or_set_aside(job_id, STORE.get(job_id)))
        records.hset(f"job:{job_id}", "record", text)
    assert records.zcard("jobs:expiring") == 0
    dispatcher.round()
    assert records.zrange("jobs:expiring", 0, -1, withscores=True) == limits


def test_any_number_of_jobs_that_cannot_be_read_hides_no_other_and_is_looked_at_once_a_minute(
    dispatcher: Dispatcher, records: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        records.zadd("jobs:unreadable", {f"{number:03}": 0})
        records.hset(f"job:{number:03}", "record", '{"schema": 99}')
    stray, again = accept(records), accept(records)
    records.zrem(Queue(Lane.NORMAL, TeamId("team")).place, stray)
    text = str(records.hget(f"job:{again}", "record"))
    records.hset(f"job:{again}", "record", "{}")
    run(records, STORE.or_set_aside(again, STORE.get(again)))
    records.hset(f"job:{again}", "record", text)
    records.zrem("jobs:unreadable", again)
    records.zadd("jobs:unreadable", {f"{again}": 0, "zzz": 0})
    looks: list[str] = []
    adopt = JobStore.adopt
    monkeypatch.setattr(JobStore, "adopt", lambda *given: looks.append(given[1]) or adopt(*given))  # type: ignore[func-returns-value]
    dispatcher.round()
    assert looks[0] == stray
    assert stray in run(records, queues.published_jobs())
    for _ in range(4):
        dispatcher.round()
    assert len(looks) == len(set(looks)) == 153
    assert set(run(records, queues.published_jobs())) == {stray, again}


def test_a_deadline_of_a_job_that_is_gone_stops_nobody(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis
) -> None:
    records.zadd("jobs:expiring", {"gone": 1})
    job_id = accept(records)
    dispatcher.round()
    assert broker.waiting() == {job_id}
    assert records.zcard("jobs:expiring") == 0


def test_a_broker_that_is_away_keeps_no_lost_job_from_being_taken_back(
    records: redis.Redis, dispatcher: Dispatcher
) -> None:
    away = Dispatcher(SETTINGS, records, Broker("redis://127.0.0.1:1/0"), Clock())
    limit = SETTINGS.jobs.max_failed_attempts
    lost = [accept(records, failed_attempts=limit - 1) for _ in range(3)]
    for job_id in lost:
        run(records, STORE.update(job_id, start))
        records.delete(f"lease:{job_id}")
    away.round()
    time.sleep(1.1)
    away.round()
    assert {stored(records, job_id).status for job_id in lost} == {JobStatus.FAILED}
