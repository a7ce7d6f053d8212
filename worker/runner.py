"""The life of a job in the worker, from its id to its published variations.

Claim the job; hold its lease; read the source; let the engine vary it; withhold what the safety checker flags; store
the other variations; finish the record. Each way it can end is in :meth:`Runner.run`. There is no Celery, torch, boto3
or Redis here.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from shared import errors, transitions
from shared.clock import Clock
from shared.ids import AssetKey, JobId
from shared.images import Picture, Source, read_source
from shared.jobs import Flagged, JobRecord, ModelIdentity, Variation
from shared.log import about
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.transitions import Transition
from worker import metrics
from worker.encoding import TYPES, encode
from worker.engine import Engine
from worker.lease import Lease, LeaseKeeper

log = structlog.get_logger(__name__)

PAUSE: Final = 1.0  #: seconds before a server that does not answer is asked again, at first
LONGEST_PAUSE: Final = 8.0  #: to which the pauses grow while the object storage is away or refuses us

T = TypeVar("T")
#: Changes a stored record, which need not be read if one told still stands.
Update = Callable[[JobId, Transition, JobRecord | None], JobRecord]
Ending = Callable[..., JobRecord]  #: a transition that is still to be told which attempt ends, and when
Score = Callable[[list[Picture]], list[float]]  #: tells of each picture, 0 ... 1, how sure it is that it is not safe


class Stopwatch:
    """Seconds spent in each part of a job."""

    def __init__(self, clock: Clock) -> None:
        self.timings: dict[str, float] = {}
        self._clock = clock
        self._last = clock.monotonic()

    def lap(self, part: str) -> None:
        now = self._clock.monotonic()
        self.timings[part] = round(now - self._last, 3)
        self._last = now


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs jobs, each in the thread that calls :meth:`run`."""

    settings: Settings
    clock: Clock
    update: Update
    keeper: LeaseKeeper
    objects: ObjectStore
    engine: Engine
    score: Score
    model: ModelIdentity  #: what the record says about the weights

    def run(self, job_id: JobId, *, ahead: bool = False) -> JobRecord | None:
        """Run a job's next attempt.

        Args:
            job_id: Whose.
            ahead: Whether it came to go ahead of what this worker runs.

        Returns:
            The record as this attempt left it, ended or queued again; None if the job is not this worker's: it is
            unknown, has ended, runs elsewhere or was taken away.
        """
        try:
            record = self._claim(job_id)
        except (errors.NotFound, errors.IllegalTransition, errors.RecordsUnavailable) as error:
            log.info("not claimed", job=job_id, reason=error.message)
            return None
        with structlog.contextvars.bound_contextvars(**about(record)), self.keeper.hold(record, ahead=ahead) as lease:
            try:
                ending = self._attempt(record, lease)
                lease.settles = True
                settled = self._settle(record, ending)
            except errors.LeaseLost as error:
                metrics.ATTEMPTS.labels("lost").inc()
                log.warning("lost the job", reason=error.message)
                return None
            except errors.ShuttingDown:
                metrics.ATTEMPTS.labels("left").inc()
                log.warning("left the job to its lease")
                return None
        metrics.ATTEMPTS.labels(settled.status).inc()
        self.keeper.ended(failed=settled.failed_attempts > record.failed_attempts)
        return settled

    def _claim(self, job_id: JobId) -> JobRecord:
        """Start the job's next attempt; a claim that got no answer may have arrived, so the same is made again.

        Raises:
            NotFound, IllegalTransition: If there is nothing to claim.
            RecordsUnavailable: If there was no answer for as long as a lease lasts, or the worker must go.
        """
        prefix, digits = self.settings.storage.prefix, random.SystemRandom().sample(range(1_000_000), k=4)
        claim = partial(transitions.claim, now=self.clock.now(), prefix=prefix, digits=digits)
        give_up = self.clock.monotonic() + self.settings.jobs.lease_seconds.total_seconds()
        while True:
            try:
                return self.update(job_id, claim, None)
            except errors.RecordsUnavailable:
                if self.keeper.ending or self.clock.monotonic() >= give_up:
                    raise
            self.keeper.pause(PAUSE)

    def _attempt(self, record: JobRecord, lease: Lease) -> Ending:
        """Do the job's work and return the transition that says how it went.

        Raises:
            LeaseLost: If another owns the job.
        """
        log.info("started")
        try:
            return self._vary(record, lease)
        except errors.LeaseLost:
            raise
        except errors.ShuttingDown:
            return transitions.hand_back
        except errors.JobError as error:
            log.exception("the job failed")
            told = errors.ModelFailed() if isinstance(error, errors.ModelFailed) else error  # details are the log's
            return partial(transitions.fail, error=told)
        except Exception as error:
            log.exception("an attempt failed")
            reason = (error if isinstance(error, errors.ReduxqError) else errors.ReduxqError()).summary
            limit = self.settings.jobs.max_failed_attempts
            return partial(transitions.fail_attempt, reason=reason, limit=limit)

    def _vary(self, record: JobRecord, lease: Lease) -> Ending:
        watch = Stopwatch(self.clock)
        source = self._read_source(record.parameters.source, lease)
        watch.lap("sourceSeconds")
        pictures, seconds = self.engine.vary(source, record.parameters.recipe, lease)
        watch.lap("modelSeconds")
        watch.timings["gpuSeconds"] = round(seconds, 3)
        flagged, model = tuple[Flagged, ...](), self.model.model_copy(update={"safety_checker": None})
        if not record.parameters.disable_safety_checker:
            flagged, model = self._flag(record.parameters.seeds, pictures), self.model
            watch.lap("safetySeconds")
        variations = self._store(record, pictures, flagged, lease)
        watch.lap("storeSeconds")
        return partial(transitions.finish, variations=variations, flagged=flagged, model=model, timings=watch.timings)

    def _read_source(self, key: AssetKey, lease: Lease) -> Source:
        try:
            return read_source(self._patiently(lambda: self.objects.get(key), lease))
        except errors.NotFound as error:
            raise errors.SourceUnusable("the source is no longer in the store") from error
        except errors.BrokenImage as error:
            raise errors.SourceUnusable(f"the source: {error.message}") from error

    def _flag(self, seeds: tuple[int, ...], pictures: list[Picture]) -> tuple[Flagged, ...]:
        """Return what must be withheld; a checker that fails fails the attempt, so that nothing goes out unchecked."""
        with self.engine.watched():
            scores = self.score(pictures)
        scored, threshold = zip(seeds, scores, strict=True), self.settings.model.safety_threshold
        return tuple(Flagged(seed=seed, score=round(score, 4)) for seed, score in scored if score >= threshold)

    def _store(
        self, record: JobRecord, pictures: list[Picture], flagged: tuple[Flagged, ...], lease: Lease
    ) -> tuple[Variation, ...]:
        """Store every picture that is not flagged; if that fails, the dispatcher deletes what was stored."""
        parameters, stored = record.parameters, list[Variation]()
        withheld = {variation.seed for variation in flagged}
        content_type = TYPES[parameters.output_format].value
        try:
            for key, seed, picture in zip(record.planned_keys, parameters.seeds, pictures, strict=True):
                if seed in withheld:
                    continue
                lease.check()
                data = encode(picture, parameters.output_format, parameters.output_quality)
                self._patiently(partial(self.objects.put, key, data, content_type), lease)
                stored.append(Variation(key=key, seed=seed, content_type=content_type, size_bytes=len(data)))
        except errors.LeaseLost:
            self._discard(record)
            raise
        return tuple(stored)

    def _patiently(self, call: Callable[[], T], lease: Lease) -> T:
        """Call the object storage.

        One that is away, or refuses what this worker says it is, is waited for until the lease ends or that lasts too
        long.
        """
        pause, give_up = PAUSE, self.clock.monotonic() + self.settings.worker.outage_seconds.total_seconds()
        while True:
            try:
                return call()
            except (errors.StorageUnavailable, errors.Misconfigured) as error:
                if self.clock.monotonic() >= give_up:
                    raise
                log.warning("waiting for the object storage", reason=error.message)
            lease.pause(pause)
            lease.check()
            pause = min(2 * pause, LONGEST_PAUSE)

    def _settle(self, record: JobRecord, ending: Ending) -> JobRecord:
        """Write how the attempt went; a records server that is away is waited for, unless the worker must go.

        Raises:
            LeaseLost: If another owns the job; what this attempt stored is gone.
            ShuttingDown: If it must go; the attempt's lease lapses, and what it stored is left alone.
        """
        transition = partial(ending, attempt=record.attempt, now=self.clock.now())
        while True:
            try:
                settled = self.update(record.id, transition, record)
            except errors.LeaseLost:
                metrics.STALE.inc()
                self._discard(record)
                raise
            except errors.RecordsUnavailable as error:
                log.warning("cannot finish yet", reason=error.message)
                if self.keeper.ending:
                    raise self.keeper.ending from error
                self.keeper.pause(PAUSE)
            else:
                log.info("settled", status=settled.status)
                return settled

    def _discard(self, record: JobRecord) -> None:
        """Remove what the attempt stored; its keys are its own, so nothing published can be among it."""
        try:
            for key in record.planned_keys:
                self.objects.delete(key)
        except errors.ReduxqError as error:
            log.warning("left objects behind for the dispatcher", reason=error.message)
