"""What the dispatcher publishes for workers that are busy, on a real Valkey; the test plays the workers."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import redis

from api.dispatcher import Dispatcher
from shared import presence
from shared.connections import connect, run
from shared.ids import JobId
from shared.jobs import JobStatus, Lane
from shared.progress import Progress
from shared.queue import AHEAD, QUEUE, Broker
from shared.transitions import cancel
from tests import queues
from tests.contract.rounds import STORE, accept, accept_sized, hold, stored


@pytest.mark.parametrize("told", ["2", "2 12.5"])
def test_a_worker_of_a_release_before_stops_nobody(
    told: str, dispatcher: Dispatcher, broker: Broker, records: redis.Redis, valkey: str
) -> None:
    records.set("worker:one", told)  # its slots, then its speed too, but no previews: it looks at one queue
    jobs = {accept(records), accept(records, lane=Lane.PREVIEW)}
    dispatcher.round()
    assert broker.waiting() == jobs
    with connect(f"{valkey}/1") as client:
        assert (client.llen(QUEUE), client.llen(AHEAD)) == (2, 0)


def busy_with_large_jobs(records: redis.Redis, ahead: int = 2) -> list[JobId]:
    """Let a worker hold as many large jobs as it can, with room for some that go ahead."""
    life = presence.WorkerLife(slots=2, speed=100, ahead=ahead)
    run(records, presence.announce_worker("one", life, timedelta(minutes=1)))
    jobs = [accept_sized(records, num_inference_steps=50) for _ in range(2)]
    hold(records, *jobs)
    return jobs


def test_previews_go_to_a_busy_worker_up_to_its_room_for_them(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    busy_with_large_jobs(records)
    large, previews = (
        accept_sized(records, num_inference_steps=50),
        [accept(records, lane=Lane.PREVIEW) for _ in range(5)],
    )
    for _ in range(2):  # the second round finds what the first published
        dispatcher.round()
        with connect(f"{valkey}/1") as client:
            # The fourth preview goes before the large job, on the headroom of the slots.
            assert (client.llen(QUEUE), client.llen(AHEAD)) == (1, 3)
    assert set(run(records, queues.published_jobs())) == set(previews[:4])
    hold(records, *previews[:2])
    dispatcher.round()
    assert set(run(records, queues.published_jobs())) == set(previews[2:4])
    run(records, STORE.update(previews[0], partial(cancel, now=datetime.now(UTC))))
    dispatcher.round()
    assert set(run(records, queues.published_jobs())) == {*previews[2:4], previews[4]}
    assert stored(records, large).status is JobStatus.QUEUED


def test_jobs_of_workers_that_retire_take_no_room_of_those_that_stay(
    dispatcher: Dispatcher, records: redis.Redis
) -> None:
    life = presence.WorkerLife(slots=1, speed=100)  # as much as they hold still
    for name in ("two", "three"):
        run(records, presence.announce_worker(name, life, timedelta(minutes=1)))
    hold(records, *(accept(records) for _ in range(2)))
    waits = [accept(records) for _ in range(2)]
    dispatcher.round()
    assert set(run(records, queues.published_jobs())) == set(waits)


def test_a_job_that_is_due_before_what_runs_goes_to_a_busy_worker_and_a_large_one_waits(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    busy_with_large_jobs(records, ahead=6)
    waits = accept_sized(records, num_inference_steps=50, num_outputs=4)  # takes the headroom
    dispatcher.round()
    large, small = accept_sized(records, num_inference_steps=50), accept_sized(records, megapixels="0.25")
    dispatcher.round()
    assert set(run(records, queues.published_jobs())) == {waits, small}
    with connect(f"{valkey}/1") as client:
        assert (client.llen(QUEUE), client.llen(AHEAD)) == (1, 1)
    hold(records, small)
    run(records, STORE.renew(small, 1, Progress(3, 28)))
    dispatcher.round()
    assert run(records, queues.published_jobs()) == [waits]
    assert stored(records, large).status is JobStatus.QUEUED


def test_large_jobs_find_their_slots_however_many_previews_are_under_way(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    jobs = busy_with_large_jobs(records)
    previews = [accept(records, lane=Lane.PREVIEW) for _ in range(2)]
    dispatcher.round()
    large = [accept_sized(records, num_inference_steps=50) for _ in range(3)]
    hold(records, *previews)
    dispatcher.round()
    assert run(records, queues.published_jobs()) == large[:1]
    run(records, STORE.update(jobs[0], partial(cancel, now=datetime.now(UTC))))
    dispatcher.round()
    assert set(run(records, queues.published_jobs())) == set(large[:2])
    with connect(f"{valkey}/1") as client:
        assert (client.llen(QUEUE), client.llen(AHEAD)) == (2, 2)


def test_a_message_that_was_lost_is_sent_again_where_busy_workers_look_if_its_job_goes_ahead(
    dispatcher: Dispatcher, broker: Broker, records: redis.Redis, valkey: str
) -> None:
    busy_with_large_jobs(records)
    preview, large = accept(records, lane=Lane.PREVIEW), accept_sized(records, num_inference_steps=50)
    dispatcher.round()
    with connect(f"{valkey}/1") as client:
        client.flushdb()
        time.sleep(1.1)
        dispatcher.round()
        assert broker.waiting() == {preview, large}
        assert (client.llen(QUEUE), client.llen(AHEAD)) == (1, 1)


def test_a_message_that_went_ahead_is_sent_to_the_others_when_no_worker_asks_there_any_more(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    busy_with_large_jobs(records)
    accept(records, lane=Lane.PREVIEW)
    dispatcher.round()
    run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
    time.sleep(1.1)
    for _ in range(2):
        dispatcher.round()
        with connect(f"{valkey}/1") as client:
            assert (client.llen(QUEUE), client.llen(AHEAD)) == (1, 1)
