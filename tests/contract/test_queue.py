"""Messages and events as Celery's own code reads them."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from shared.errors import Unavailable
from shared.ids import JobId
from shared.queue import AHEAD, QUEUE, QUEUES, TASK, Broker, make_celery
from tests import servers
from tests.queues import monitored
from tests.servers import wait_until


@pytest.fixture
def url(valkey: str) -> str:
    return f"{valkey}/1"


@pytest.fixture
def lists(url: str) -> Iterator[redis.Redis]:
    """A client of the broker's database."""
    with redis.Redis.from_url(url) as client:
        yield client


def job_ids(count: int) -> list[JobId]:
    return [JobId(str(uuid4())) for _ in range(count)]


@pytest.mark.parametrize("name", QUEUES)
def test_celery_delivers_what_was_published_in_that_order(url: str, name: str) -> None:
    jobs = job_ids(3)
    Broker(url).publish(jobs, name)
    app, got = make_celery(url), list[Any]()
    with app.connection_for_read() as connection, connection.SimpleBuffer(name) as queue:
        for _ in jobs:
            got.append(message := queue.get_nowait())
            message.ack()
    assert [message.headers["id"] for message in got] == jobs
    assert {message.headers["task"] for message in got} == {TASK}
    assert [message.payload[0] for message in got] == [[job] for job in jobs]


def test_a_message_is_the_one_that_celerys_own_send_task_makes_but_for_results_that_nobody_keeps(
    url: str, lists: redis.Redis
) -> None:
    (job,) = job_ids(1)
    Broker(url).publish([job], QUEUE)
    make_celery(url).send_task(TASK, args=(job,), task_id=job, queue=QUEUE)
    theirs, ours = (json.loads(message) for message in lists.lrange(QUEUE, 0, -1))
    for one in (theirs, ours):
        del one["properties"]["delivery_tag"], one["properties"]["reply_to"], one["headers"]["ignore_result"]
    assert ours == theirs


def test_monitors_hear_of_every_message_and_of_a_failure(url: str) -> None:
    jobs, broker = job_ids(30), Broker(url)
    with monitored(url) as heard:
        broker.publish(jobs[:-1], QUEUE)
        broker.publish(jobs[-1:], AHEAD)
        broker.report_failure(jobs[0], "its worker fell silent")
        wait_until(lambda: len(heard) > len(jobs))
    assert [(event["type"], event["uuid"]) for event in heard[:-1]] == [("task-sent", job) for job in jobs]
    assert [event["queue"] for event in heard[:-1]] == [QUEUE] * 29 + [AHEAD]
    assert (heard[-1]["type"], heard[-1]["uuid"]) == ("task-failed", jobs[0])
    assert heard[-1]["exception"] == "its worker fell silent"


def test_what_waits_is_told_without_what_a_worker_took_or_a_stranger_put_there(url: str, lists: redis.Redis) -> None:
    broker, jobs = Broker(url), job_ids(3)
    assert broker.waiting() == set()
    broker.publish(jobs[:-1], QUEUE)
    broker.publish(jobs[-1:], AHEAD)
    for poison in ("no JSON", "[]", '"text"', "{}", '{"headers": null}', '{"headers": {"id": null}}', b"\xff"):
        lists.lpush(QUEUE, poison)
    lists.rpop(QUEUE)
    assert broker.waiting() == set(jobs[1:])


@pytest.mark.parametrize("call", ["publish", "report_failure", "waiting"])
def test_a_broker_that_is_away_is_told_and_found_again(call: str, url: str, lists: redis.Redis) -> None:
    calls: dict[str, Any] = {
        "publish": lambda broker: broker.publish(job_ids(2), QUEUE),
        "report_failure": lambda broker: broker.report_failure(job_ids(1)[0], "why"),
        "waiting": lambda broker: broker.waiting(),
    }
    with pytest.raises(Unavailable, match="the broker does not answer"):
        calls[call](Broker(f"redis://127.0.0.1:{servers.free_port()}/1"))
    broker = Broker(url)
    calls[call](broker)
    lists.client_kill_filter(_type="normal", skipme=True)
    for _ in range(2):  # the first of them may meet the broken connection
        try:
            calls[call](broker)
            break
        except Unavailable:
            pass
    else:
        pytest.fail("the broken connection is never replaced")
