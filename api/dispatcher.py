"""The dispatcher: owns everything between acceptance and claim.

It publishes only as many messages as living workers have free slots, in the order of :mod:`api.dispatch_policy`, takes
back jobs whose worker fell silent and ends those whose deadline has passed. Any number may run; the one that holds the
lead acts. Whatever it forgets at a crash it reads again from the records.
"""

import signal
import socket
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from threading import Event, Thread
from typing import Final
from uuid import uuid4

import redis
import structlog

from api.dispatch_policy import choose, window
from api.sweeper import Sweeper
from api.webhooks import Deliverer
from shared import backlog, dispatch_store, transitions
from shared.backlog import Backlog
from shared.clock import Clock
from shared.egress import Egress
from shared.errors import RecordsUnavailable, Unavailable
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.programs import Program, T, connect, run, together
from shared.queue import Broker
from shared.settings import Settings
from shared.startup import start

log = structlog.get_logger(__name__)

LEAD: Final = timedelta(seconds=2)  #: a silent leader is replaced after this
ROUND: Final = timedelta(seconds=0.5)  #: longest time between two looks when nobody rings
PAUSE: Final = 0.5  #: seconds before the next try when a server does not answer
TELL: Final = 1.0  #: seconds between two accounts of what waits
REPAIR: Final = 60.0  #: seconds between two looks for jobs that no queue holds
STRAYS: Final = 100  #: of those that one round adopts at most
BATCH: Final = 1000  #: jobs that one look takes in hand at most


class Dispatcher:
    """Publishes queued jobs and takes back lost ones, round by round."""

    def __init__(self, settings: Settings, records: redis.Redis, broker: Broker, clock: Clock) -> None:
        self._settings = settings
        self._records = records
        self._broker = broker
        self._clock = clock
        self._store = JobStore(settings.jobs.lease_seconds)
        self.name = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        self._server_run = ""
        self._quiet_until = 0.0  #: monotonic; until then every lease gets the time to be renewed
        self._tell_at = self._repair_at = 0.0  #: monotonic

    def run(self, stop: Event) -> None:
        """Work until told to stop; whatever goes wrong in one round is tried again in the next."""
        while not stop.is_set():
            try:
                if self.round():
                    self._run(dispatch_store.wait_for_ring(ROUND))
                else:
                    self._clock.wait(stop, ROUND.total_seconds())  # the doorbell is the leader's
            except Unavailable as error:
                log.warning("waiting for a server", error=error.message)
                self._clock.wait(stop, PAUSE)
            except Exception:
                log.exception("a round failed")
                self._clock.wait(stop, PAUSE)
        with suppress(Unavailable):
            self._run(dispatch_store.step_down(self.name))

    def round(self) -> bool:
        """Do once all there is to do, if this dispatcher leads; return whether it does."""
        try:
            if not self._run(dispatch_store.lead(self.name, LEAD)):
                self._server_run = ""  # a new leader begins with one quiet lease
                return False
            if self._leases_can_be_trusted():
                self._take_back_lost_jobs()
            self._end_late_jobs()
            self._repair()
            self._publish()
            self._publish_again()
        except RecordsUnavailable:
            self._server_run = ""
            raise
        return True

    def _leases_can_be_trusted(self) -> bool:
        """Say whether the records server has been up for one lease, so that a missing lease means a lost worker."""
        server_run = self._run(dispatch_store.server_run())
        if server_run != self._server_run:
            self._server_run = server_run
            self._quiet_until = self._clock.monotonic() + self._settings.jobs.lease_seconds.total_seconds()
        return self._clock.monotonic() >= self._quiet_until

    def _take_back_lost_jobs(self) -> None:
        limit = self._settings.jobs.max_failed_attempts
        _, lost = self._run(self._store.running())
        for job_id in lost:
            lose = partial(_lose, limit=limit, now=self._clock.now())
            self._end(job_id, "took back a job", self._store.take_back(job_id, lose))

    def _end_late_jobs(self) -> None:
        now = self._clock.now()
        for job_id in self._run(dispatch_store.expiring(now, BATCH)):
            expire = partial(transitions.expire, now=now)
            self._end(job_id, "ended a late job", self._store.update(job_id, expire))

    def _end(self, job_id: JobId, what: str, change: Program[JobRecord | None]) -> None:
        """Change one record and tell what came of it."""
        record = self._run(self._store.or_set_aside(job_id, change))
        if record is None or record.status is JobStatus.RUNNING:
            return
        log.warning(what, job=job_id, attempt=record.attempt, status=record.status)
        if record.failure:
            with suppress(Unavailable):  # monitors must do without
                self._broker.report_failure(job_id, f"{record.failure.name}: {record.failure.message}")

    def _repair(self) -> None:
        """Give jobs that no queue holds back to one, and forget what is empty."""
        if self._clock.monotonic() < self._repair_at:
            return
        strays = self._run(dispatch_store.stray_jobs())
        self._repair_at = self._clock.monotonic() + (REPAIR if len(strays) <= STRAYS else 0)
        for job_id in strays[:STRAYS]:
            if self._run(self._store.or_set_aside(job_id, self._store.adopt(job_id))):
                log.warning("found a job that no queue held", job=job_id)
        queued = self._run(dispatch_store.backlog())
        self._run(dispatch_store.drop_empty(queue for queue, work in queued.items() if work <= 0))
        given, busy = self._run(dispatch_store.shares()), {queue.team_id for queue in queued}
        overtaken = [team for team, share in given.teams.items() if share <= given.clock and team not in busy]
        self._run(dispatch_store.forget_shares(overtaken))

    def _publish_again(self) -> None:
        """Send the messages again that were sent a while ago and that neither the broker nor a worker has."""
        now = self._run(dispatch_store.server_seconds())
        patience = self._settings.dispatcher.republish_seconds.total_seconds()
        if overdue := self._run(dispatch_store.published_before(now - patience, BATCH)):
            there = self._broker.waiting()
            lost = [job_id for job_id in overdue if job_id not in there]
            look = [self._store.or_set_aside(job_id, self._store.get(job_id)) for job_id in lost]
            whole = [record.id for record in self._run(together(look)) if record]
            self._send(self._run(dispatch_store.mark_again(whole, now)), again=True)

    def _publish(self) -> None:
        lives = self._run(dispatch_store.living_workers()).values()
        # In this order a job that is claimed in between counts twice, and never not at all.
        under_way = self._run(dispatch_store.published_count())
        running, _ = self._run(self._store.running())  # those of dead workers take nobody's room
        state = Backlog(
            published=under_way,
            running=len(running),
            workers=len(lives),
            slots=sum(life.slots for life in lives),
            speed=sum(life.speed for life in lives),
        )
        self._tell(state, running)
        rules = self._settings.dispatcher
        count = window(slots=state.slots, running=len(running), under_way=under_way, headroom=rules.headroom)
        if count:
            queues = list(self._run(dispatch_store.backlog()))
            count = min(count, BATCH)
            waiting = self._run(dispatch_store.waiting(queues, count + 1))
            shares, now_us = self._run(dispatch_store.shares()), int(self._clock.now().timestamp() * 1e6)
            batch, given = choose(waiting, shares, count=count, now_us=now_us, ageing=rules.ageing_seconds)
            now = self._run(dispatch_store.server_seconds())
            # Marked first: a claim removes the mark, and must find it there.
            marked = self._run(dispatch_store.mark_published(batch, given, now)) if batch else False
            if marked:
                self._send([job.job_id for job in batch], again=False)

    def _send(self, jobs: list[JobId], *, again: bool) -> None:
        if jobs:
            self._broker.publish(jobs)
            log.info("published", jobs=jobs, again=again)

    def _tell(self, state: Backlog, running: list[JobId]) -> None:
        """Tell what waits, for queue positions, estimates and scaling."""
        if self._clock.monotonic() < self._tell_at:
            return
        self._tell_at = self._clock.monotonic() + TELL
        queued = self._run(dispatch_store.backlog())
        counts = self._run(dispatch_store.lengths(list(queued)))
        waiting = {str(queue): (count, queued[queue]) for queue, count in counts.items()}
        work = self._run(dispatch_store.work_of(running))
        self._run(backlog.put(state.model_copy(update={"waiting": waiting, "running_work": work})))

    def _run(self, program: Program[T]) -> T:
        return run(self._records, program)


def _lose(record: JobRecord, *, limit: int, now: datetime) -> JobRecord:
    reason = "its worker fell silent"
    return transitions.fail_attempt(record, attempt=record.attempt, reason=reason, limit=limit, now=now)


def dispatch(settings: Settings) -> None:
    """Run dispatcher, sweeper and webhooks until SIGTERM or SIGINT."""
    stop, clock = Event(), Clock()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    records, objects = connect(settings.records.url.get_secret_value()), ObjectStore(settings.storage)
    dispatcher = Dispatcher(settings, records, Broker(settings.broker.url.get_secret_value()), clock)
    sweeper = Sweeper(settings, records, objects, clock)
    deliverer = Deliverer(settings, records, Egress(settings.egress), objects, clock)
    Thread(target=sweeper.run, args=(stop, dispatcher.name), name="sweeper", daemon=True).start()
    Thread(target=deliverer.run, args=(stop,), name="webhooks", daemon=True).start()
    dispatcher.run(stop)


if __name__ == "__main__":
    start("dispatcher", dispatch)
