"""Leases of the jobs this worker holds, renewed by a thread of its own together with the worker's sign of life."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Lock, Thread
from typing import Final

import redis
import structlog

from shared.dispatch_store import announce_worker, retire_worker
from shared.errors import LeaseLost, ReduxqError
from shared.ids import JobId
from shared.job_store import JobStore, Progress
from shared.jobs import JobRecord
from shared.programs import Program, run

log = structlog.get_logger(__name__)

BEAT: Final = timedelta(seconds=0.25)  #: progress is told at most this often
RENEWALS: Final = 4  #: renewals in the time a lease lasts


class Lease:
    """One attempt's right to its job."""

    def __init__(self, record: JobRecord) -> None:
        self.job_id: JobId = record.id
        self.attempt = record.attempt
        self.progress: Progress | None = None
        self.told: Progress | None = None
        self.renewed = time.monotonic()
        self._end: ReduxqError | None = None
        self._ended = Event()

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            LeaseLost: If another owns the job.
            ShuttingDown: If the worker must give the job back.
        """
        if self._end:
            raise self._end

    def pause(self, seconds: float) -> None:
        """Wait, at most until the lease ends."""
        self._ended.wait(seconds)

    def tell(self, step: int, steps: int) -> None:
        """Note how far the job is; the keeper's thread passes it on."""
        self.progress = Progress(step, steps)

    def end(self, error: ReduxqError) -> None:
        """Make every further check raise ``error``."""
        self._end = error
        self._ended.set()


class LeaseKeeper:
    """Renews all leases of this worker and announces it, with the number of jobs it can hold, while it lives."""

    def __init__(self, records: redis.Redis, store: JobStore, *, name: str, slots: int) -> None:
        self._records = records
        self._store = store
        self._name = name
        self._slots = slots
        self._pause = store.lease / RENEWALS
        self._leases: set[Lease] = set()
        self.ending: ReduxqError | None = None  #: what ends every lease, once that was decided
        self._retired = False
        self._lock = Lock()
        self._stop = Event()
        self._thread = Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Take this worker off the list of those that take jobs; leases are still renewed."""
        self._retired = True
        self._try(retire_worker(self._name))

    def stop(self) -> None:
        """Retire and stop renewing."""
        self.retire()
        self._stop.set()
        self._thread.join()

    @contextmanager
    def hold(self, record: JobRecord) -> Iterator[Lease]:
        """Keep the lease of a claimed job renewed for the time of the block."""
        lease = Lease(record)
        with self._lock:
            self._leases.add(lease)
            if self.ending:
                lease.end(self.ending)
        try:
            yield lease
        finally:
            with self._lock:
                self._leases.discard(lease)

    def end_all(self, error: ReduxqError) -> None:
        """End every lease held now or taken later."""
        with self._lock:
            self.ending = error
            for lease in self._leases:
                lease.end(error)

    def _keep(self) -> None:
        pause = self._pause.total_seconds()
        announced = -pause
        while True:
            now = time.monotonic()
            due = now - announced >= pause and not self._retired
            if due and self._try(announce_worker(self._name, self._slots, self._store.lease)):
                announced = now
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                if lease.progress != lease.told or now - lease.renewed >= pause:
                    self._renew(lease, now)
            if self._stop.wait(BEAT.total_seconds()):
                return

    def _renew(self, lease: Lease, now: float) -> None:
        progress = lease.progress
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
            log.warning("cannot renew", error=repr(error))
            return False
        return True
