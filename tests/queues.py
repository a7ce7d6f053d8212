"""What tests read of the dispatcher's queues, past its own programs, and hear as a monitor does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import redis

from shared.backlog import PLACE, Backlog
from shared.ids import JobId
from shared.job_index import EVERYWHERE, PUBLISHED, index
from shared.jobs import JobStatus
from shared.presence import WorkerLife
from shared.programs import Program
from shared.queue import make_celery
from tests.servers import wait_until

LIFE = WorkerLife(slots=2, speed=0)


def told() -> Program[Backlog]:
    """Return what the dispatcher told last."""
    return Backlog.parse((yield ("GET", PLACE)))


def queued_jobs() -> Program[list[JobId]]:
    """Return all queued jobs in order of acceptance."""
    jobs: list[JobId] = yield ("ZRANGE", index(EVERYWHERE, JobStatus.QUEUED), 0, -1)
    return jobs


def published_jobs() -> Program[list[JobId]]:
    """Return the queued jobs whose message is under way, in the order of publishing."""
    jobs: list[JobId] = yield ("ZRANGE", PUBLISHED, 0, -1)
    return jobs


@contextmanager
def monitored(url: str) -> Iterator[list[dict[str, Any]]]:
    """Hear Celery's events of a broker for the time of the block."""
    app, heard = make_celery(url), list[dict[str, Any]]()
    with app.connection_for_read() as connection, redis.Redis.from_url(url) as broker, ThreadPoolExecutor() as pool:
        receiver = app.events.Receiver(connection, handlers={"*": heard.append})
        listening = pool.submit(receiver.capture, wakeup=False)
        wait_until(broker.pubsub_numpat)
        try:
            yield heard
        finally:
            receiver.should_stop = True
            listening.result()
