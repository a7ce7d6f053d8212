"""The dispatcher: owns everything between acceptance and claim.

It publishes only as many messages as living workers have free slots, in the order of :mod:`api.dispatch_policy`, takes
back jobs whose worker fell silent and ends those whose deadline has passed. Any number may run; the one that holds the
lead acts. Whatever it forgets at a crash it reads again from the records.
"""

import math
import signal
import socket
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from threading import Event, Thread
from typing import Final
from uuid import uuid4

import redis
import structlog
from prometheus_client import REGISTRY

from api import dispatch_metrics
from api.batch_feeder import Feeder
from api.dispatch_look import Look, look
from api.dispatch_metrics import Standing
from api.dispatch_policy import Busy, Room, choose, window
from api.sweeper import Sweeper
from api.webhooks import Deliverer
from shared import backlog, dispatch_store, presence, transitions
from shared.backlog import Backlog
from shared.clock import Clock
from shared.completions import follow_in_background
from shared.connections import connect, run
from shared.egress import Egress
from shared.errors import RecordsUnavailable, Unavailable
from shared.heartbeat import heartbeat
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.log import about
from shared.metrics import serve
from shared.object_store import ObjectStore
from shared.programs import Program, T, together
from shared.queue import AHEAD, QUEUE, QUEUES, Broker
from shared.settings import Settings
from shared.startup import start

log = structlog.get_logger(__name__)

LEAD: Final = timedelta(seconds=2)  #: a silent leader is replaced after this
ROUND: Final = timedelta(seconds=0.5)  #: longest time between two looks when nobody rings
GATHER: Final = 0.02  #: seconds between two looks in a rush: what is accepted meanwhile goes out in one go
RUSH: Final = 4  #: jobs that go out in one round; with fewer each is worth a look of its own
COUNT: Final = 0.25  #: seconds between two counts of the jobs that ended, for monitors
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
        self._beat = heartbeat(settings.dispatcher.heartbeat_file)
        self.name = f"{socket.gethostname()}-{uuid4().hex[:8]}"
        self._server_run = ""
        self._sent = 0  #: messages of this round
        self._wants_room = False  #: jobs wait for room, so whoever leaves a slot is to ring
        self._hurries = False  #: somebody may have left before that was known
        self._led_at = -math.inf  #: monotonic, when it last made sure that it leads
        self._quiet_until = 0.0  #: monotonic; until then every lease gets the time to be renewed
        self._tell_at = self._repair_at = 0.0  #: monotonic
        self._strays: list[JobId] = []  #: that may be, and are still to be looked at

    def run(self, stop: Event) -> None:
        """Work until told to stop; whatever goes wrong in one round is tried again in the next."""
        leads = False
        while not stop.is_set():
            wait, leads = ROUND if leads and not self._hurries else None, False
            try:
                leads = self.round(wait)
                rest = GATHER if self._sent >= RUSH else 0
                self._clock.wait(stop, rest if leads else ROUND.total_seconds())  # the doorbell is the leader's
            except Unavailable as error:
                log.warning("waiting for a server", error=error.message)
                self._clock.wait(stop, PAUSE)
            except Exception:
                log.exception("a round failed")
                self._clock.wait(stop, PAUSE)
        with suppress(Unavailable):
            self._run(presence.step_down(self.name))

    def round(self, wait: timedelta | None = None) -> bool:
        """Do once all there is to do, if this dispatcher leads; return whether it does.

        Args:
            wait: Begin when somebody rings, or after so long; None: at once.
        """
        self._sent, self._hurries = 0, False
        try:
            if not self._leads():
                self._server_run = ""  # a new leader begins with one quiet lease
                return False
            now = self._clock.now()
            seen = self._run(look(self._store, wait=wait, wants_room=self._wants_room, now=now, limit=BATCH))
            if seen.lost and self._leases_can_be_trusted():
                self._take_back_lost_jobs(seen.lost)
            self._end_late_jobs(seen.late)
            self._repair()
            state = seen.standing
            self._tell(state, seen.running)
            unpublished = seen.messages.unpublished
            if unpublished:
                self._publish(seen, state)
            left = unpublished > self._sent
            self._hurries, self._wants_room = left and not self._wants_room, left
            if overdue := seen.overdue(self._settings.dispatcher.republish_seconds):
                self._publish_again(overdue, seen)
        except RecordsUnavailable:
            self._server_run = ""
            raise
        return True

    def _leads(self) -> bool:
        """Say whether this dispatcher leads for long enough yet, or else become or stay the one that does.

        Who does looks then whether the records server was started anew.
        """
        now = self._clock.monotonic()
        if now - self._led_at >= LEAD.total_seconds() / 4:
            leads = self._run(presence.lead(self.name, LEAD))
            self._led_at = now if leads else -math.inf
            if leads:
                self._note_server_run()
        return self._led_at > -math.inf

    def _leases_can_be_trusted(self) -> bool:
        """Say whether the records server has been up for one lease, so that a missing lease means a lost worker."""
        self._note_server_run()
        return self._clock.monotonic() >= self._quiet_until

    def _note_server_run(self) -> None:
        """Begin one quiet lease if the records server was started anew."""
        if (server_run := self._run(dispatch_store.server_run())) != self._server_run:
            self._server_run = server_run
            self._quiet_until = self._clock.monotonic() + self._settings.jobs.lease_seconds.total_seconds()

    def _take_back_lost_jobs(self, lost: list[JobId]) -> None:
        limit = self._settings.jobs.max_failed_attempts
        for job_id in lost:
            lose = partial(_lose, limit=limit, now=self._clock.now())
            if self._end(job_id, "took back a job", self._store.take_back(job_id, lose)):
                dispatch_metrics.EXPIRED.inc()

    def _end_late_jobs(self, late: list[JobId]) -> None:
        for job_id in late:
            expire = partial(transitions.expire, now=self._clock.now())
            self._end(job_id, "ended a late job", self._store.update(job_id, expire))

    def count_ended(self, job_id: JobId) -> None:
        """Tell Prometheus of a job that ended, if this dispatcher leads: the others hear of it too."""
        if run(self._records, presence.leader()) == self.name:
            record = run(self._records, self._store.or_set_aside(job_id, self._store.get(job_id)))
            if record:
                dispatch_metrics.ended(record)
                code = record.failure.code if record.failure else None
                log.info("ended", **about(record), status=record.status, code=code)

    def _end(self, job_id: JobId, what: str, change: Program[JobRecord | None]) -> bool:
        """Change one record and tell what came of it; return whether it changed."""
        record = self._run(self._store.or_set_aside(job_id, change))
        if record is None or record.status is JobStatus.RUNNING:
            return False
        log.warning(what, **about(record), status=record.status)
        if record.failure:
            with suppress(Unavailable):  # monitors must do without
                self._broker.report_failure(job_id, f"{record.failure.name}: {record.failure.message}")
        return True

    def _repair(self) -> None:
        """Give jobs that no queue holds back to one, some each round, and forget what is empty."""
        if not self._strays and self._clock.monotonic() >= self._repair_at:
            self._repair_at = self._clock.monotonic() + REPAIR
            self._strays = self._run(dispatch_store.stray_jobs())
            self._forget_empty()
        now, some, self._strays = self._clock.now(), self._strays[:STRAYS], self._strays[STRAYS:]
        found = self._run(together([self._store.or_set_aside(each, self._store.adopt(each, now)) for each in some]))
        if jobs := [job_id for job_id, adopted in zip(some, found, strict=True) if adopted]:
            log.warning("found jobs that no queue held", jobs=jobs)

    def _forget_empty(self) -> None:
        queued = self._run(dispatch_store.backlog())
        self._run(dispatch_store.drop_empty(queue for queue, work in queued.items() if work <= 0))
        given, busy = self._run(dispatch_store.shares()), {queue.team_id for queue in queued}
        overtaken = [team for team, share in given.teams.items() if share <= given.clock and team not in busy]
        self._run(dispatch_store.forget_shares(overtaken))

    def _publish_again(self, overdue: list[JobId], seen: Look) -> None:
        """Send the messages again that were sent a while ago and that no worker has, nor one of the queues they ask."""
        queues = QUEUES if seen.ahead else (QUEUE,)
        there = self._broker.waiting(queues)
        lost = [job_id for job_id in overdue if job_id not in there]
        self._run(together([self._store.or_set_aside(job_id, self._store.get(job_id)) for job_id in lost]))
        again = self._run(dispatch_store.mark_again(lost, seen.at))
        ahead = self._run(dispatch_store.went_ahead(again)) if AHEAD in queues else ()
        self._send(again, ahead, again=True)
        dispatch_metrics.REPUBLISHED.inc(len(again))

    def _publish(self, seen: Look, state: Backlog) -> None:
        rules = self._settings.dispatcher
        workers = Room(state.slots, seen.ahead)
        compare = workers.ahead and (state.published or state.running)
        busy = self._run(dispatch_store.under_way({*seen.lost})) if compare else []
        ahead = sum(job.ahead for job in busy)
        others = state.published + state.running - ahead
        free = window(workers, others=others, ahead=ahead, headroom=rules.headroom)
        room = free._replace(slots=min(free.slots, BATCH))
        if room.slots or room.ahead:
            waiting = self._run(dispatch_store.waiting(seen.queues, room.slots + room.ahead + 1))
            plan = choose(
                waiting,
                seen.shares,
                room=room,
                now_us=int(self._clock.now().timestamp() * 1e6),
                ageing=rules.ageing_seconds,
                busy=Busy(busy, state.speed_of_one, state.workers),
            )
            # Marked first: a claim removes the mark, and must find it there.
            marked = self._run(dispatch_store.mark_published(*plan, seen.at)) if plan.jobs else False
            if marked:
                self._send([job.job_id for job in plan.jobs], plan.ahead, again=False)

    def _send(self, jobs: list[JobId], ahead: Collection[JobId], *, again: bool) -> None:
        """Publish jobs, those that go ahead where busy workers look for them."""
        self._sent += len(jobs)
        for queue in QUEUES:
            if own := [job_id for job_id in jobs if (job_id in ahead) == (queue == AHEAD)]:
                self._broker.publish(own, queue)
                log.info("published", jobs=own, queue=queue, again=again)

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
        self._beat()
        return run(self._records, program)


def _lose(record: JobRecord, *, limit: int, now: datetime) -> JobRecord:
    reason = "its worker fell silent"
    return transitions.fail_attempt(record, attempt=record.attempt, reason=reason, limit=limit, now=now)


def dispatch(settings: Settings) -> None:
    """Run dispatcher, feeder, sweeper and webhooks until SIGTERM or SIGINT."""
    stop, clock = Event(), Clock()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    records, objects = connect(settings.records.url.get_secret_value()), ObjectStore(settings.storage)
    dispatcher = Dispatcher(settings, records, Broker(settings.broker.url.get_secret_value()), clock)
    sweeper = Sweeper(settings, records, objects, clock)
    standing = Standing(records, settings)
    REGISTRY.register(standing)
    serve(settings.dispatcher.metrics_port, scale=standing.scale)
    deliverer = Deliverer(settings, records, Egress(settings.egress), objects, clock)
    Thread(target=sweeper.run, args=(stop, dispatcher.name), name="sweeper", daemon=True).start()
    Thread(target=Feeder(settings).run, args=(stop, dispatcher.name), name="feeder", daemon=True).start()
    Thread(target=deliverer.run, args=(stop,), name="webhooks", daemon=True).start()
    follow_in_background(settings, dispatcher.count_ended, clock, stop, rest=COUNT)
    dispatcher.run(stop)


if __name__ == "__main__":
    start("dispatcher", dispatch)
