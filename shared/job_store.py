"""Where records live: one hash for each job; what its changes mean elsewhere is worked out in :mod:`shared.job_index`.

Lease and progress are volatile and stand outside the record, so that renewing them never conflicts with a transition.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import structlog
from pydantic import ValidationError

from shared import backlog, batches, idempotency, teams
from shared.assets import vacant
from shared.backlog import Backlog
from shared.errors import IllegalTransition, LeaseLost, NotFound, TooManyRequests, UnreadableRecord
from shared.idempotency import Once
from shared.ids import JobId
from shared.job_index import (
    EVERYWHERE,
    EXPIRING,
    PUBLISHED,
    UNREADABLE,
    Cursor,
    Queue,
    adopted,
    effects,
    forgotten,
    index,
    lease_place,
    newest,
    open_jobs,
    place,
    progress_place,
    ring,
    take_lease,
)
from shared.jobs import JobRecord, JobStatus
from shared.limits import Rate
from shared.programs import Bounds, Command, Guard, Program, T, broken_guard, commit, members, together
from shared.progress import Progress
from shared.transitions import Transition, cancel

log = structlog.get_logger(__name__)

ROOM: Final = 10  #: seconds until a team with too many open jobs may try again


class Report(NamedTuple):
    """A record with what stands outside it."""

    record: JobRecord
    progress: Progress | None = None
    queue_position: int | None = None  #: 1 is next; None when not queued
    estimated_seconds: float | None = None  #: until it ends; None: it has, or nobody knows


@dataclass(frozen=True)
class JobStore:
    """Programs on jobs.

    Args:
        lease: How long a claim lasts without being renewed.
    """

    lease: timedelta

    def accept(
        self, record: JobRecord, *, most_open: int | None = None, once: Once | None = None, rate: Rate | None = None
    ) -> Program[JobId]:
        """Store a new job and reserve its price, unless the same request made one earlier; return the one that stands.

        Args:
            record: The job.
            most_open: How many its team may have waiting or running, this one included.
            once: What makes the request the same when it is sent again.
            rate: Counts the request that makes a new job.

        Raises:
            InsufficientCredits: If its team or user cannot pay for it.
            TooManyRequests: If its team has too many open jobs, or the key asked too often.
            IdempotencyKeyReused: If the earlier request asked for something else.
            IllegalTransition: If it is an item of a batch that no longer waits.
        """
        new = _version_is("", record.id)
        waits = [batches.is_in(record.item)] if record.item else []
        first, remember = idempotency.mark(once, record.id)
        room = [] if most_open is None else [Bounds(("ZCARD", open_jobs(record.team_id)), most=most_open - 1)]
        kept, count = ([rate.kept], rate.one_more) if rate else ([], [])
        payer = (record.team_id, record.user_id, record.price)
        broken = yield from broken_guard(
            [new, *first, *kept, *waits, *room, *teams.affords(*payer)],
            [*effects(None, record, self.lease), *remember, *count],
        )
        if broken in {None, new}:  # it is stored, now or when this was sent for the first time
            return record.id
        if broken in first:
            earlier = yield from idempotency.find(once)
            if earlier:
                return JobId(earlier)
            return (yield from self.accept(record, most_open=most_open, once=once, rate=rate))
        if rate and broken in kept:
            raise (yield from rate.refusal())
        if broken in waits:
            raise IllegalTransition(f"{record.item} no longer waits")
        if broken in room:
            message = f"the team has {most_open} jobs that wait or run, the most that are allowed"
            raise TooManyRequests(message, retry_after=ROOM)
        raise (yield from teams.explain_refusal(*payer))

    def get(self, job_id: JobId) -> Program[JobRecord | None]:
        """Return a job's record.

        Raises:
            UnreadableRecord: If it is damaged, or of a release that this one does not know.
        """
        text = yield ("HGET", place(job_id), "record")
        try:
            return JobRecord.model_validate_json(text) if text else None
        except ValidationError as error:
            raise UnreadableRecord(f"the record of job {job_id} cannot be read: {error}") from error

    def report(self, job_id: JobId) -> Program[Report | None]:
        """Return the record with its progress and its place in the queue."""
        record = yield from self.get(job_id)
        return (yield from self.standing(record)) if record else None

    def standing(self, record: JobRecord) -> Program[Report]:
        """Return a record with its progress and its place in the queue."""
        if record.status is JobStatus.RUNNING:
            text, seen = yield [("GET", progress_place(record.id)), ("GET", backlog.PLACE)]
            progress = Progress.parse(text) if text else None
            left = Backlog.parse(seen).seconds_left(record, progress.done if progress else 0.0)
            return Report(record, progress, estimated_seconds=left)
        if record.status is JobStatus.QUEUED:
            queue = Queue(record.lane, record.team_id)
            under_way, rank, seen = yield [
                ("ZRANK", PUBLISHED, record.id),
                ("ZRANK", queue.place, record.id),
                ("GET", backlog.PLACE),
            ]
            turn = Backlog.parse(seen).turn(record, rank or 0)
            position = turn.position if under_way is None else under_way + 1
            return Report(record, queue_position=position, estimated_seconds=turn.seconds)
        return Report(record)

    def page(
        self, scope: str, statuses: Iterable[JobStatus], *, limit: int, after: Cursor | None = None
    ) -> Program[tuple[list[JobRecord], Cursor | None]]:
        """Return the newest jobs of a scope that come after the cursor, and the cursor after them if there are more."""
        lists = yield from together([newest(index(scope, status), limit + 1, after) for status in statuses])
        found = sorted({entry for older in lists for entry in older}, reverse=True)
        records = yield from together([self._readable(entry.job_id) for entry in found[:limit]])
        return [record for record in records if record], found[limit - 1] if len(found) > limit else None

    def _readable(self, job_id: JobId) -> Program[JobRecord | None]:
        """Return a record, but None for one that cannot be read, so that it hides no other in a list."""
        try:
            return (yield from self.get(job_id))
        except UnreadableRecord:
            return None

    def update(self, job_id: JobId, transition: Transition, *, known: JobRecord | None = None) -> Program[JobRecord]:
        """Replace the record by ``transition(record)`` atomically and return the new one.

        Args:
            job_id: Whose.
            transition: May be called more than once, so it must be pure.
            known: The record as it probably still is, which then need not be read first; ``transition`` changes it.

        Raises:
            NotFound, UnreadableRecord: If there is no such job, or its record cannot be read.
            InsufficientCredits: If the change costs what its team does not have.
            IllegalTransition: If it plans to write where another object is or may come.
            Exception: Whatever ``transition`` raises; the record is then unchanged.
        """
        while True:
            # Of an item there is more to know.
            before, owned = (known, []) if known and not known.item else (yield from self._owner(job_id))
            known = None
            if before is None:
                raise NotFound(f"there is no job {job_id}")
            after = transition(before)
            if after == before:
                return before
            payer = (after.team_id, after.user_id, after.price if before.finished and not after.finished else 0)
            affords = teams.affords(*payer) if payer[2] else []
            planned = after.planned_keys if after.attempt > before.attempt else ()
            unused = [free for key in planned for free in vacant(key)]
            broken = yield from self._replace(before, after, *owned, *affords, *unused)
            if broken is None:
                return after.model_copy(update={"version": before.version + 1})
            if broken in affords:
                raise (yield from teams.explain_refusal(*payer))
            if broken in unused:
                raise IllegalTransition("another object has one of the keys that were drawn")

    def take_back(self, job_id: JobId, transition: Transition) -> Program[JobRecord | None]:
        """As :meth:`update`, but only while the job runs and nobody holds its lease; else None."""
        unleased = Guard(("GET", lease_place(job_id)), "")
        while True:
            before, owned = yield from self._owner(job_id)
            if before is None or before.status is not JobStatus.RUNNING or (yield ("EXISTS", lease_place(job_id))):
                return None
            after = transition(before)
            if (yield from self._replace(before, after, *owned, unleased)) is None:
                return after.model_copy(update={"version": before.version + 1})

    def renew(self, job_id: JobId, attempt: int, progress: Progress | None) -> Program[None]:
        """Prolong an attempt's lease, even an expired one that nobody took, and tell its progress.

        Raises:
            LeaseLost: If the attempt no longer owns the job.
        """
        held = [
            Guard(("HGET", place(job_id), "attempt"), str(attempt)),
            Guard(("HGET", place(job_id), "status"), JobStatus.RUNNING),
        ]
        told = [("SET", progress_place(job_id), str(progress))] if progress else []
        if not (yield from commit(held, [take_lease(job_id, attempt, self.lease), *told])):
            raise LeaseLost

    def running(self) -> Program[tuple[list[JobId], list[JobId]]]:
        """Return the running jobs that somebody holds, and those whose lease is gone."""
        jobs = yield from members(index(EVERYWHERE, JobStatus.RUNNING), lease_place(JobId("*")))
        held, lost = ([JobId(name) for name, (lease,) in jobs if (lease is None) is gone] for gone in (False, True))
        return held, lost

    def adopt(self, job_id: JobId, now: datetime) -> Program[bool]:
        """Put an open job where the dispatcher finds it: one of the release before, or one that was set aside.

        One whose batch went on without it is canceled.
        """
        record = yield from self.get(job_id)
        if record and record.item and not record.finished:
            owner, _ = yield from self._owner(job_id)
            if owner and owner.item is None:
                record = yield from self.update(job_id, partial(cancel, now=now))
        if record is None or record.finished:
            yield ("ZREM", UNREADABLE, job_id)
            return False
        aside = (yield ("ZSCORE", UNREADABLE, job_id)) is not None
        nowhere = (Queue(record.lane, record.team_id).place, PUBLISHED)
        still = [Guard(("ZSCORE", name, job_id), "") for name in nowhere]
        if aside:
            still = [Guard(("ZSCORE", UNREADABLE, job_id), "0")]
        unchanged = _version_is(str(record.version), job_id)
        return (yield from commit([unchanged, *still], [*adopted(record, counted=aside), *ring()]))

    def or_set_aside(self, job_id: JobId, program: Program[T]) -> Program[T | None]:
        """Do what a program does with one job; set the job aside, and return None, if its record is gone or unreadable.

        So it takes no room of others, until it can be read.
        """
        try:
            return (yield from program)
        except (NotFound, UnreadableRecord) as error:
            log.error("set a job aside", job=job_id, reason=error.message)  # noqa: TRY400  the reason says all
        places = [index(EVERYWHERE, status) for status in JobStatus]
        gone = [("ZREM", name, job_id) for name in (*places, PUBLISHED, EXPIRING)]
        yield from commit([], [*gone, ("ZADD", UNREADABLE, 0, job_id), *ring()])
        return None

    def forget(self, record: JobRecord) -> Program[None]:
        """Forget a job that has ended, unless it changed meanwhile."""
        yield from commit([_version_is(str(record.version), record.id)], forgotten(record))

    def _owner(self, job_id: JobId) -> Program[tuple[JobRecord | None, list[Guard]]]:
        """Return a record, and what must hold for its item to be its own, if it has one.

        An open job whose item was given up while nobody could read its record has none: the item may be another's.
        """
        record = yield from self.get(job_id)
        if record is None or record.item is None or record.finished:
            return record, []
        read: Command = ("HGET", batches.outcomes_place(record.item.batch_id), record.item.line)
        text = (yield read) or "{}"
        own = batches.Outcome.model_validate_json(text).record_id == job_id
        return record if own else record.model_copy(update={"item": None}), [Guard(read, text)] if own else []

    def _replace(self, before: JobRecord, after: JobRecord, *guards: Guard | Bounds) -> Program[Guard | Bounds | None]:
        numbered = after.model_copy(update={"version": before.version + 1})
        unchanged = _version_is(str(before.version), before.id)
        return broken_guard([unchanged, *guards], effects(before, numbered, self.lease))


def _version_is(version: str, job_id: JobId) -> Guard:
    return Guard(("HGET", place(job_id), "version"), version)
