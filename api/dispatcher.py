"""The dispatcher: owns everything between acceptance and claim.

It publishes only as many messages as living workers have free slots and takes back jobs whose worker fell silent. Any
number may run; the one that holds the lead acts. Whatever it forgets at a crash it reads again from the records.
"""

import math
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event
from typing import Final
from uuid import uuid4

import redis
import structlog
from celery import Celery
from pydantic import ValidationError

from api.dispatch_policy import choose, window
from shared import dispatch_store, queue, transitions
from shared.errors import Unavailable
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord
from shared.programs import connect, run
from shared.settings import Settings
from shared.startup import start

log = structlog.get_logger(__name__)

LEAD: Final = timedelta(seconds=3)  #: a silent leader is replaced after this
ROUND: Final = timedelta(seconds=0.5)  #: longest time between two looks when nobody rings
PAUSE: Final = 0.5  #: seconds before the next try when a server does not answer


class Dispatcher:
    """Publishes queued jobs and takes back lost ones, round by round."""

    def __init__(self, settings: Settings, records: redis.Redis, app: Celery) -> None:
        self._settings = settings
        self._records = records
        self._app = app
        self._store = JobStore(settings.jobs.lease_seconds)
        self._name = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        self._server_run = ""
        self._quiet_until = 0.0  #: monotonic; until then every lease gets the time to be renewed
        self._under_way: dict[JobId, float] = {}  #: at the last round
        self._overtaken = 0.0  #: when the newest message was published that a worker has taken
        self._free_since = math.inf  #: the server's time since when workers have had free slots

    def run(self, stop: Event) -> None:
        """Work until told to stop; whatever goes wrong in one round is tried again in the next."""
        while not stop.is_set():
            try:
                if self.round():
                    run(self._records, dispatch_store.wait_for_ring(ROUND))
                else:
                    stop.wait(ROUND.total_seconds())  # the doorbell is the leader's
            except Unavailable as error:
                log.warning("waiting for a server", error=error.message)
                self._server_run = ""
                stop.wait(PAUSE)
            except Exception:
                log.exception("a round failed")
                stop.wait(PAUSE)
        with suppress(Unavailable):
            run(self._records, dispatch_store.step_down(self._name))

    def round(self) -> bool:
        """Do once all there is to do, if this dispatcher leads; return whether it does."""
        if not run(self._records, dispatch_store.lead(self._name, LEAD)):
            self._server_run = ""  # a new leader begins with one quiet lease
            return False
        if self._leases_can_be_trusted():
            self._take_back_lost_jobs()
        self._publish()
        return True

    def _leases_can_be_trusted(self) -> bool:
        """Say whether the records server has been up for one lease, so that a missing lease means a lost worker."""
        server_run = run(self._records, dispatch_store.server_run())
        if server_run != self._server_run:
            self._server_run = server_run
            self._quiet_until = time.monotonic() + self._settings.jobs.lease_seconds.total_seconds()
        return time.monotonic() >= self._quiet_until

    def _take_back_lost_jobs(self) -> None:
        for job_id in run(self._records, self._store.unleased()):
            try:
                self._take_back(job_id)
            except ValidationError:  # of one record, which must not keep all other jobs from their workers
                log.exception("a record cannot be read", job=job_id)

    def _take_back(self, job_id: JobId) -> None:
        transition = partial(_lose, limit=self._settings.jobs.max_failed_attempts, now=datetime.now(UTC))
        record = run(self._records, self._store.take_back(job_id, transition))
        if record is None:
            return
        log.warning("took back a job", job=job_id, attempt=record.attempt, status=record.status)
        if record.failure:
            queue.report_failure(self._app, job_id, f"{record.failure.name}: {record.failure.message}")

    def _publish(self) -> None:
        slots = sum(run(self._records, dispatch_store.living_workers()).values())
        # In this order a job that is claimed in between counts twice, and never not at all.
        under_way = run(self._records, dispatch_store.published_jobs())
        running = run(self._records, dispatch_store.running_count())
        lost = self._lost_messages(under_way, free=slots - running)
        count = window(
            slots=slots, running=running, under_way=len(under_way), headroom=self._settings.dispatcher.headroom
        )
        queued = run(self._records, dispatch_store.queued_jobs(count + len(under_way))) if count else []
        batch = lost + choose(queued, under_way, count)
        # Marked first: a claim removes the mark, and must find it there.
        run(self._records, dispatch_store.mark_published(batch))
        for job_id in batch:
            queue.publish(self._app, job_id)
            log.info("published", job=job_id, again=job_id in lost)

    def _lost_messages(self, under_way: dict[JobId, float], free: int) -> list[JobId]:
        """Return the published jobs whose message must be lost, for messages are taken in the order they were sent.

        Lost is one that was overtaken by a later one, or that free workers have not taken for long.
        """
        now = run(self._records, dispatch_store.server_seconds())
        claimed = (at for job_id, at in self._under_way.items() if job_id not in under_way)
        self._overtaken = max(self._overtaken, *claimed, 0.0)
        self._under_way = under_way
        self._free_since = min(self._free_since, now) if free > 0 else math.inf
        patience = self._settings.dispatcher.republish_seconds.total_seconds()
        all_idle = now - self._free_since >= patience
        return [
            job_id for job_id, at in under_way.items() if now - at > patience and (all_idle or at < self._overtaken)
        ]


def _lose(record: JobRecord, *, limit: int, now: datetime) -> JobRecord:
    reason = "its worker fell silent"
    return transitions.fail_attempt(record, attempt=record.attempt, reason=reason, limit=limit, now=now)


def dispatch(settings: Settings) -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    app = queue.make_celery(settings.broker.url.get_secret_value())
    Dispatcher(settings, connect(settings.records.url.get_secret_value()), app).run(stop)


if __name__ == "__main__":
    start("dispatcher", dispatch)
