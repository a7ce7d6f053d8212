"""The life of a job in the worker, from its id to its published variations.

Claim the job; hold its lease; read the source; let the engine vary it; store the variations; finish the record. Each
way it can end is in :meth:`Runner.run`. There is no Celery, torch, boto3 or Redis here.
"""

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import structlog

from shared import jobs
from shared.errors import (
    BrokenImage,
    IllegalTransition,
    JobError,
    LeaseLost,
    NotFound,
    RecordsUnavailable,
    ReduxqError,
    ShuttingDown,
    SourceLost,
    SourceUnreadable,
)
from shared.ids import AssetKey, JobId
from shared.images import Picture, read_source
from shared.jobs import JobRecord, ModelIdentity, Parameters, Transition, Variation
from worker.encoding import TYPES, encode
from worker.engine import Watch

log = structlog.get_logger(__name__)

PAUSE: Final = 1.0  #: seconds before a finished job's record is written again when its server does not answer


class Objects(Protocol):
    """Where sources and variations are."""

    def get(self, key: AssetKey) -> bytes: ...
    def put(self, key: AssetKey, body: bytes, content_type: str) -> str: ...
    def delete(self, key: AssetKey) -> None: ...


class Varying(Protocol):
    """Who makes the variations."""

    def vary(self, source: Picture, parameters: Parameters, watch: Watch) -> list[Picture]: ...


class HeldLease(Watch, Protocol):
    """The right to the job."""

    attempt: int


class Stopwatch:
    """Seconds spent in each part of a job."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self.timings[part] = round(now - self._last, 3)
        self._last = now


class Runner:
    """Runs jobs, each in the thread that calls :meth:`run`.

    Args:
        update: Changes a record by a transition.
        hold: Keeps a claimed job's lease renewed.
        objects: Where sources and variations are.
        engine: Makes the variations.
        model: What the record says about the weights.
        prefix: What the operator's object keys start with.
        max_failed_attempts: After so many a job fails for good.
    """

    def __init__(
        self,
        *,
        update: Callable[[JobId, Transition], JobRecord],
        hold: Callable[[JobRecord], AbstractContextManager[HeldLease]],
        objects: Objects,
        engine: Varying,
        model: ModelIdentity,
        prefix: str,
        max_failed_attempts: int,
    ) -> None:
        self._update = update
        self._hold = hold
        self._objects = objects
        self._engine = engine
        self._model = model
        self._prefix = prefix
        self._limit = max_failed_attempts

    def run(self, job_id: JobId) -> JobRecord | None:
        """Run a job's next attempt.

        Returns:
            The record as this attempt left it, ended or queued again; None if the job is not this worker's: it is
            unknown, has ended, runs elsewhere or was taken away.
        """
        try:
            record = self._claim(job_id)
        except (NotFound, IllegalTransition, RecordsUnavailable) as error:
            log.info("not claimed", job=job_id, reason=error.message)
            return None
        with self._hold(record) as lease:
            try:
                return self._settle(lease, job_id, self._attempt(record, lease))
            except LeaseLost as error:
                log.warning("lost the job", job=job_id, attempt=record.attempt, reason=error.message)
                self._discard(record)
                return None

    def _claim(self, job_id: JobId) -> JobRecord:
        digits = random.SystemRandom().sample(range(1_000_000), k=4)
        transition = partial(jobs.claim, now=datetime.now(UTC), prefix=self._prefix, digits=digits)
        return self._update(job_id, transition)

    def _attempt(self, record: JobRecord, lease: HeldLease) -> Transition:
        """Do the job's work and return the transition that says how it went.

        Raises:
            LeaseLost: If another owns the job.
        """
        log.info("started", job=record.id, attempt=record.attempt)
        try:
            return self._vary(record, lease)
        except LeaseLost:
            raise
        except ShuttingDown:
            return partial(jobs.hand_back, attempt=record.attempt)
        except JobError as error:
            return partial(jobs.fail, attempt=record.attempt, error=error, now=datetime.now(UTC))
        except Exception as error:
            # Not the job's fault, as far as we know: another attempt may have better luck.
            log.exception("an attempt failed", job=record.id, attempt=record.attempt)
            reason = error.message if isinstance(error, ReduxqError) else f"{type(error).__name__}: {error}"
            return partial(
                jobs.fail_attempt, attempt=record.attempt, reason=reason, limit=self._limit, now=datetime.now(UTC)
            )

    def _vary(self, record: JobRecord, lease: HeldLease) -> Transition:
        watch = Stopwatch()
        source = self._read_source(record.parameters.source)
        watch.lap("sourceSeconds")
        pictures = self._engine.vary(source, record.parameters, lease)
        watch.lap("modelSeconds")
        variations = self._store(record, pictures, lease)
        watch.lap("storeSeconds")
        return partial(
            jobs.succeed,
            attempt=record.attempt,
            variations=variations,
            model=self._model,
            timings=watch.timings,
            now=datetime.now(UTC),
        )

    def _read_source(self, key: AssetKey) -> Picture:
        try:
            return read_source(self._objects.get(key))
        except NotFound as error:
            raise SourceLost(f"the source {key} is no longer in the store") from error
        except BrokenImage as error:
            raise SourceUnreadable(error.message) from error

    def _store(self, record: JobRecord, pictures: list[Picture], lease: HeldLease) -> tuple[Variation, ...]:
        """Store every picture, or none."""
        parameters, stored = record.parameters, list[Variation]()
        content_type = TYPES[parameters.output_format].content_type
        try:
            for key, seed, picture in zip(record.planned_keys, parameters.seeds, pictures, strict=True):
                lease.check()
                data = encode(picture, parameters.output_format, parameters.output_quality)
                stored.append(Variation(key=key, seed=seed, content_type=content_type, size_bytes=len(data)))
                self._objects.put(key, data, content_type)
        except Exception:
            self._discard(record)
            raise
        return tuple(stored)

    def _settle(self, lease: HeldLease, job_id: JobId, transition: Transition) -> JobRecord:
        """Write how the attempt went; a records server that is away is waited for."""
        while True:
            try:
                record = self._update(job_id, transition)
            except RecordsUnavailable as error:
                log.warning("cannot finish yet", job=job_id, reason=error.message)
                time.sleep(PAUSE)
            else:
                log.info("settled", job=job_id, attempt=lease.attempt, status=record.status)
                return record

    def _discard(self, record: JobRecord) -> None:
        """Remove what the attempt stored; its keys are its own, so nothing published can be among it."""
        for key in record.planned_keys:
            try:
                self._objects.delete(key)
            except ReduxqError as error:
                log.warning("left an object behind", key=key, reason=error.message)
