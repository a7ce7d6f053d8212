"""What nobody needs any more leaves: objects left behind by attempts and uploads, and all that is past its time.

Only the leading dispatcher sweeps, though two would do no harm: every step may be made twice.
"""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from threading import Event
from typing import Final

import redis
import structlog

from shared import assets, batch_store, dispatch_store, transitions
from shared.clock import Clock
from shared.errors import ReduxqError, UnreadableRecord
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import TERMINAL, JobRecord
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
        more = False
        while not self._clock.wait(stop, 0 if more else PAUSE):
            more = False
            try:
                more = self._run(dispatch_store.leader()) == name and self.round()
            except ReduxqError as error:
                log.warning("cannot sweep now", error=error.message)
            except Exception:
                log.exception("sweeping failed")

    def round(self) -> bool:
        """Take everything in hand that is due, a batch of each kind; return whether there may be more."""
        now, jobs = self._clock.now(), self._settings.jobs
        orphans = self._run(assets.orphaned(now - STILL_WRITING, BATCH))
        for key in orphans:
            self._objects.delete(key)
            self._run(assets.forget_orphan(key))
        uploads = self._run(assets.older(assets.RESERVED, now - UPLOADING, BATCH))
        images = self._run(assets.older(assets.STORED, now - jobs.keep_images_seconds, BATCH))
        for image in (*uploads, *images):
            if image.job_id:
                self._erase(image.job_id)
            self._run(assets.abandon(image, now))
        until = now - jobs.keep_records_seconds
        ended = [self._run(dispatch_store.accepted_before(status, until, BATCH)) for status in sorted(TERMINAL)]
        for job_id in chain(*ended):
            if record := self._erase(job_id):
                self._run(self._store.forget(record))
        batches = self._run(batch_store.ended_before(until, BATCH))
        for batch_id in batches:
            with suppress(UnreadableRecord):  # it keeps no other from leaving
                if batch := self._run(batch_store.get(batch_id)):
                    self._run(batch_store.forget(batch, now))
        return any(len(found) == BATCH for found in (orphans, uploads, images, *ended, batches))

    def _erase(self, job_id: JobId) -> JobRecord | None:
        """Have a job's images deleted and return what is left of its record; one that cannot be read is set aside."""
        erase = partial(transitions.erase, now=self._clock.now())
        return self._run(self._store.or_set_aside(job_id, self._store.update(job_id, erase)))

    def _run(self, program: Program[T]) -> T:
        return run(self._records, program)
