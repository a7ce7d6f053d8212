"""Leases of the jobs this worker holds, renewed by a thread of its own together with the worker's sign of life."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Lock, Thread
from typing import Final

import redis
import structlog

from shared.clock import Clock
from shared.connections import run
from shared.errors import LeaseLost, ReduxqError
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, Lane
from shared.presence import WorkerLife, announce_worker, retire_worker
from shared.programs import Program
from shared.progress import Progress

log = structlog.get_logger(__name__)

BEAT: Final = timedelta(seconds=0.25)  #: progress is told at most this often
HEED: Final = 0.05  #: seconds between two looks at which jobs ended, for one of its own may have been canceled
RENEWALS: Final = 4  #: renewals in the time a lease lasts
REST: Final = 1.0  #: seconds after a failed attempt, times how many failed in a row
LONGEST_REST: Final = 8.0  #: seconds


class Lease:
    """One attempt's right to its job.

    Args:
        record: The job, claimed.
        clock: Tells when.
        ahead: Whether it takes no slot, for it came to go ahead of what runs.
    """

    def __init__(self, record: JobRecord, clock: Clock, *, ahead: bool) -> None:
        self.job_id: JobId = record.id
        self.attempt = record.attempt
        self.preview, self.low = record.lane is Lane.PREVIEW, record.lane is Lane.LOW
        self.ahead = ahead
        self.since = clock.monotonic()
        self.accepted = self.since - (clock.now() - record.created_at).total_seconds()  #: monotonic
        self.progress: Progress | None = None  #: None: the engine has not begun it
        self.told: Progress | None = None
        self.settles = False  #: how it ended is being written
        self.renewed = -math.inf  #: when; its claim may have been asked for long before the answer came
        self._clock = clock
        self._end: ReduxqError | None = None
        self._ended = Event()

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            LeaseLost: If another owns the job, or it has ended.
            ShuttingDown: If the worker must give the job back.
        """
        if self._end:
            raise self._end

    def pause(self, seconds: float) -> None:
        """Wait, at most until the lease ends."""
        self._clock.wait(self._ended, seconds)

    def tell(self, made: Sequence[int], steps: int) -> None:
        """Note how far the job is; the keeper's thread passes it on."""
        self.progress = Progress(sum(made) // len(made), steps, tuple(made))

    def end(self, error: ReduxqError) -> None:
        """Make every further check raise ``error``."""
        self._end = error
        self._ended.set()


class LeaseKeeper:
    """Renews all leases of this worker and announces it while it lives.

    Args:
        records: Where leases stand.
        store: Their programs.
        clock: Says when a renewal is due.
        name: What the worker is called.
        life: Returns what the worker says of itself; while it takes no jobs it announces no room but for those it has.
    """

    def __init__(
        self,
        records: redis.Redis,
        store: JobStore,
        clock: Clock,
        *,
        name: str,
        life: Callable[[], WorkerLife],
    ) -> None:
        self._records = records
        self._store = store
        self._clock = clock
        self._name = name
        self._life = life
        self._pause = store.lease.total_seconds() / RENEWALS
        self._announced: tuple[object, float] = (None, -math.inf)  #: room for jobs of each kind, when
        self._failures = 0  #: attempts that failed since the last that did not
        self._rests_until = -math.inf
        self._leases: set[Lease] = set()
        self.ending: ReduxqError | None = None  #: what ends every lease, once that was decided
        self._ended = Event()
        self._retired = self._left = False  #: the list of workers
        self._failing = False
        self._lock = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Take no more jobs; leases are still renewed, and the jobs held still announced, so that they take no room."""
        self._retired = True

    def stop(self) -> None:
        """Stop renewing, and leave the list of workers."""
        self._stop.set()
        self._thread.join()
        self._try(retire_worker(self._name))

    @contextmanager
    def hold(self, record: JobRecord, *, ahead: bool = False) -> Iterator[Lease]:
        """Keep the lease of a claimed job renewed for the time of the block."""
        lease = Lease(record, self._clock, ahead=ahead)
        with self._lock:
            self._leases.add(lease)
            if self.ending:
                lease.end(self.ending)
        try:
            yield lease
        finally:
            with self._lock:
                self._leases.discard(lease)

    def held(self) -> list[Lease]:
        with self._lock:
            return list(self._leases)

    def end_all(self, error: ReduxqError) -> None:
        """End every lease held now or taken later."""
        with self._lock:
            self.ending = error
            for lease in self._leases:
                lease.end(error)
        self._ended.set()

    def pause(self, seconds: float) -> None:
        """Wait, at most until every lease is ended."""
        self._clock.wait(self._ended, seconds)

    def doubt(self, job_id: JobId) -> None:
        """Ask at once whether a job is still this worker's, if it is among those it holds and works on."""
        for lease in self.held():
            if lease.job_id == job_id and not lease.settles:
                self._renew(lease)

    def ended(self, *, failed: bool) -> None:
        """Note how an attempt ended: a failed one makes the worker rest, the longer the more failed in a row."""
        self._failures = self._failures + 1 if failed else 0
        self._rests_until = self._clock.monotonic() + min(self._failures * REST, LONGEST_REST)

    def resting(self) -> bool:
        """Say whether jobs are left to other workers, because this one is sick, and would use up attempts, or goes."""
        return self._retired or self._clock.monotonic() < self._rests_until

    def beat(self) -> None:
        """Renew the leases and then announce the worker, as far as that is due: a slow answer must cost no lease."""
        for lease in self.held():
            if lease.progress != lease.told or self._clock.monotonic() - lease.renewed >= self._pause:
                self._renew(lease)
        self._announce()

    def _keep(self) -> None:
        while True:
            self.beat()
            if self._clock.wait(self._stop, BEAT.total_seconds()):
                return

    def _announce(self) -> None:
        held, life, now = self.held(), self._life(), self._clock.monotonic()
        if self._retired and not held:
            self._left = self._left or self._try(retire_worker(self._name))
            return
        if self.resting():
            ahead = sum(lease.ahead for lease in held)
            life = life._replace(slots=min(life.slots, len(held)), ahead=min(life.ahead, ahead))
        room, (told, at) = life._replace(speed=bool(life.speed)), self._announced
        if room == told and now - at < self._pause:
            return
        if self._try(announce_worker(self._name, life, self._store.lease)):
            self._announced = (room, now)

    def _renew(self, lease: Lease) -> None:
        now, progress = self._clock.monotonic(), lease.progress
        try:
            if self._try(self._store.renew(lease.job_id, lease.attempt, progress)):
                lease.renewed, lease.told = now, progress
        except LeaseLost as error:
            lease.end(error)

    def _try(self, program: Program[None]) -> bool:
        """Run a program; False if that failed in whatever way, so that the next beat tries again."""
        try:
            run(self._records, program)
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, jobs are lost if this does not go on
            if not self._failing:  # said once, not four times a second as long as a server is away
                log.warning("cannot renew", error=repr(error))
            self._failing = True
            return False
        self._failing = False
        return True
