"""What nobody needs any more leaves: objects left behind by attempts and uploads, and all that is past its time.

Only the leading dispatcher sweeps, though two would do no harm: every step may be made twice.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from itertools import chain
from threading import Event
from typing import Final, TypeVar

import redis
import structlog

from shared import assets, batch_store, dispatch_store, presence, transitions
from shared.assets import Asset
from shared.clock import Clock
from shared.connections import run
from shared.errors import ReduxqError, Unavailable
from shared.ids import AssetKey, BatchId, JobId
from shared.job_store import JobStore
from shared.jobs import TERMINAL, JobRecord
from shared.object_store import ObjectStore
from shared.programs import Command, Program, T, commit
from shared.settings import Settings

log = structlog.get_logger(__name__)
Thing = TypeVar("Thing")

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
                more = self._run(presence.leader()) == name and self.round()
            except ReduxqError as error:
                log.warning("cannot sweep now", error=error.message)
            except Exception:
                log.exception("sweeping failed")

    def round(self) -> bool:
        """Take everything in hand that is due, a batch of each kind; return whether there may be more.

        What cannot leave keeps nothing else from leaving.
        """
        now, jobs = self._clock.now(), self._settings.jobs
        uploads = self._run(assets.older(assets.RESERVED, now - UPLOADING, BATCH))
        images = self._run(assets.older(assets.STORED, now - jobs.keep_images_seconds, BATCH))
        until = now - jobs.keep_records_seconds
        ended = [self._run(dispatch_store.accepted_before(status, until, BATCH)) for status in sorted(TERMINAL)]
        batches = self._run(batch_store.ended_before(until, BATCH))
        orphans = self._run(assets.orphaned(now - STILL_WRITING, BATCH))
        self._each((*uploads, *images), self._abandon)
        self._each(chain(*ended), self._forget_job)
        self._each(batches, self._forget_batch)
        # Those that cannot be deleted are due again later, or a hundred of them would hide all others.
        self._each(orphans, self._delete, lambda key: assets.orphan(key, now))
        return any(len(found) == BATCH for found in (orphans, uploads, images, *ended, batches))

    def _each(
        self, things: Iterable[Thing], leave: Callable[[Thing], None], later: Callable[[Thing], Command] | None = None
    ) -> None:
        """Let each thing leave; of one that cannot ``later`` says when it is looked at again, if that must be said.

        Raises:
            Unavailable: If a server does not answer.
        """
        for thing in things:
            try:
                leave(thing)
            except Unavailable:
                raise
            except Exception:
                log.exception("this cannot leave", thing=str(thing))
                if later:
                    self._run(commit([], [later(thing)]))

    def _delete(self, key: AssetKey) -> None:
        self._objects.delete(key)
        self._run(assets.forget_orphan(key))

    def _abandon(self, image: Asset) -> None:
        if image.job_id:
            self._erase(image.job_id)
        self._run(assets.abandon(image, self._clock.now()))

    def _forget_job(self, job_id: JobId) -> None:
        if record := self._erase(job_id):
            self._run(self._store.forget(record))

    def _forget_batch(self, batch_id: BatchId) -> None:
        if batch := self._run(batch_store.get(batch_id)):
            self._run(batch_store.forget(batch, self._clock.now()))

    def _erase(self, job_id: JobId) -> JobRecord | None:
        """Have a job's images deleted and return what is left of its record; one that cannot be read is set aside."""
        erase = partial(transitions.erase, now=self._clock.now())
        return self._run(self._store.or_set_aside(job_id, self._store.update(job_id, erase)))

    def _run(self, program: Program[T]) -> T:
        return run(self._records, program)
