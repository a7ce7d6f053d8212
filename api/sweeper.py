"""What nobody needs any more leaves: objects that attempts and uploads left behind, images and records past their time.

Only the leading dispatcher sweeps, though two would do no harm: every step may be made twice.
"""

from datetime import timedelta
from functools import partial
from threading import Event
from typing import Final

import redis
import structlog

from shared import assets, dispatch_store, transitions
from shared.clock import Clock
from shared.errors import ReduxqError
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import TERMINAL
from shared.object_store import ObjectStore
from shared.programs import Program, T, run
from shared.settings import Settings

log = structlog.get_logger(__name__)

PAUSE: Final = 30.0  #: seconds between two rounds
BATCH: Final = 100  #: things of a kind that one round takes in hand
#: An upload or an attempt that was given up may be writing still, for as long as the storage's client tries.
STILL_WRITING: Final = timedelta(minutes=10)
UPLOADING: Final = timedelta(hours=1)  #: an upload that has not ended by then never will


class Sweeper:
    """Deletes, round by round."""

    def __init__(self, settings: Settings, records: redis.Redis, objects: ObjectStore, clock: Clock) -> None:
        self._settings = settings
        self._records = records
        self._objects = objects
        self._clock = clock
        self._store = JobStore(settings.jobs.lease_seconds)

    def run(self, stop: Event, name: str) -> None:
        """Sweep until told to stop, while the dispatcher of that name leads."""
        while not self._clock.wait(stop, PAUSE):
            try:
                if self._run(dispatch_store.leader()) == name:
                    self.round()
            except ReduxqError as error:
                log.warning("cannot sweep now", error=error.message)
            except Exception:
                log.exception("sweeping failed")

    def round(self) -> None:
        """Take everything in hand that is due, a batch of each kind."""
        now, jobs = self._clock.now(), self._settings.jobs
        for key in self._run(assets.orphaned(now - STILL_WRITING, BATCH)):
            self._objects.delete(key)
            self._run(assets.forget_orphan(key))
        for upload in self._run(assets.older(assets.RESERVED, now - UPLOADING, BATCH)):
            self._run(assets.abandon(upload, now))
        for image in self._run(assets.older(assets.STORED, now - jobs.keep_images_seconds, BATCH)):
            if image.job_id:
                self._erase(image.job_id)
            self._run(assets.abandon(image, now))
        for status in sorted(TERMINAL):
            for job_id in self._run(dispatch_store.accepted_before(status, now - jobs.keep_records_seconds, BATCH)):
                self._erase(job_id)
                if record := self._run(self._store.get(job_id)):
                    self._run(self._store.forget(record))

    def _erase(self, job_id: JobId) -> None:
        """Have a job's images deleted; its record stays."""
        if self._run(self._store.get(job_id)):
            self._run(self._store.update(job_id, partial(transitions.erase, now=self._clock.now())))

    def _run(self, program: Program[T]) -> T:
        return run(self._records, program)
