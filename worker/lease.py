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
from shared.dispatch_store import WorkerLife, announce_worker, retire_worker
from shared.errors import LeaseLost, ReduxqError
from shared.ids import JobId
from shared.job_store import JobStore, Progress
from shared.jobs import JobRecord, Lane
from shared.programs import Program, run

log = structlog.get_logger(__name__)

BEAT: Final = timedelta(seconds=0.25)  #: progress is told at most this often
RENEWALS: Final = 4  #: renewals in the time a lease lasts
REST: Final = 1.0  #: seconds after a failed attempt, times how many failed in a row
LONGEST_REST: Final = 8.0  #: seconds


class Lease:
    """One attempt's right to its job."""

    def __init__(self, record: JobRecord, clock: Clock) -> None:
        self.job_id: JobId = record.id
        self.attempt = record.attempt
        self.preview, self.low = record.lane is Lane.PREVIEW, record.lane is Lane.LOW
        self.since = clock.monotonic()
        self.progress: Progress | None = None  #: None: the engine has not begun it
        self.told: Progress | None = None
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
        life: Returns what the worker says of itself; while it rests it announces no room for more previews.
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
        self._retired = False
        self._failing = False
        self._lock = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Take this worker off the list of those that take jobs; leases are still renewed."""
        self._retired = True
        self._leave_list()

    def stop(self) -> None:
        """Retire and stop renewing."""
        self.retire()
        self._stop.set()
        self._thread.join()

    @contextmanager
    def hold(self, record: JobRecord) -> Iterator[Lease]:
        """Keep the lease of a claimed job renewed for the time of the block."""
        lease = Lease(record, self._clock)
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
        """Ask at once whether a job is still this worker's, if it is among those it holds."""
        for lease in self.held():
            if lease.job_id == job_id:
                self._renew(lease)

    def ended(self, *, failed: bool) -> None:
        """Note how an attempt ended: a failed one makes the worker rest, the longer the more failed in a row."""
        self._failures = self._failures + 1 if failed else 0
        self._rests_until = self._clock.monotonic() + min(self._failures * REST, LONGEST_REST)

    def resting(self) -> bool:
        """Say whether jobs are better left to other workers, so that a sick one does not use up their attempts."""
        return self._clock.monotonic() < self._rests_until

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
        life, now = self._life(), self._clock.monotonic()
        if self.resting():
            life = life._replace(previews=min(life.previews, sum(lease.preview for lease in self.held())))
        room, (told, at) = life._replace(speed=0), self._announced
        if self._retired or (room == told and now - at < self._pause):
            return
        if self._try(announce_worker(self._name, life, self._store.lease)):
            self._announced = (room, now)
        if self._retired:  # meanwhile, and perhaps before this arrived
            self._leave_list()

    def _leave_list(self) -> None:
        self._try(retire_worker(self._name))

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
