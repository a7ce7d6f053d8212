"""Where records live: one hash for each job, indices that follow its status, and its lease.

Whatever a change of a record means elsewhere is worked out in one place, from the record before and after, and
committed with it as one atomic step. Lease and progress are volatile and stand outside the record, so that renewing
them never conflicts with a transition.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from shared import idempotency, teams
from shared.assets import Asset, discard, keep
from shared.errors import LeaseLost, NotFound, TooManyRequests
from shared.idempotency import Once
from shared.ids import JobId, TeamId
from shared.jobs import JobRecord, JobStatus
from shared.programs import Bounds, Command, Guard, Program, broken_guard, commit
from shared.transitions import Transition

#: Sorted sets of job ids by time of acceptance, one for each status the dispatcher looks after.
INDICES: Final = {JobStatus.QUEUED: "jobs:queued", JobStatus.RUNNING: "jobs:running"}
PUBLISHED: Final = "jobs:published"  #: queued jobs whose message is under way, by time of publishing
DOORBELL: Final = "dispatcher:doorbell"  #: a list with an entry when the dispatcher has something to do
COMPLETIONS: Final = "jobs:completions"  #: stream with one entry for each job that ended
COMPLETIONS_KEPT: Final = 10_000  #: entries, about
ROOM: Final = 10  #: seconds until a team with too many open jobs may try again


class Progress(NamedTuple):
    """How far a running job is."""

    step: int
    steps: int


class Report(NamedTuple):
    """A record with what stands outside it."""

    record: JobRecord
    progress: Progress | None
    queue_position: int | None  #: 1 is next; None when not queued


@dataclass(frozen=True)
class JobStore:
    """Programs on jobs.

    Args:
        lease: How long a claim lasts without being renewed.
    """

    lease: timedelta

    def accept(self, record: JobRecord, *, open_jobs: int | None = None, once: Once | None = None) -> Program[JobId]:
        """Store a new job and reserve its price, unless the same request made one earlier; return the one that stands.

        Args:
            record: The job.
            open_jobs: How many its team may have waiting or running, this one included.
            once: What makes the request the same when it is sent again.

        Raises:
            InsufficientCredits: If its team or user cannot pay for it.
            TooManyRequests: If its team has too many open jobs.
            IdempotencyKeyReused: If the earlier request asked for something else.
        """
        new = _version_is("", record.id)
        first, remember = idempotency.mark(once, record.id)
        room = [] if open_jobs is None else [Bounds(("ZCARD", _open(record.team_id)), most=open_jobs - 1)]
        payer = (record.team_id, record.user_id, record.price)
        broken = yield from broken_guard(
            [new, *first, *room, *teams.affords(*payer)], [*self._effects(None, record), *remember]
        )
        if broken in {None, new}:  # it is stored, now or when this was sent for the first time
            return record.id
        if broken in first:
            earlier = yield from idempotency.find(once)
            return JobId(earlier) if earlier else (yield from self.accept(record, open_jobs=open_jobs, once=once))
        if broken in room:
            message = f"the team has {open_jobs} jobs that wait or run, the most that are allowed"
            raise TooManyRequests(message, retry_after=ROOM)
        raise (yield from teams.explain_refusal(*payer))

    def get(self, job_id: JobId) -> Program[JobRecord | None]:
        text = yield ("HGET", _place(job_id), "record")
        return JobRecord.model_validate_json(text) if text else None

    def report(self, job_id: JobId) -> Program[Report | None]:
        """Return the record with its progress and its place in the queue."""
        record = yield from self.get(job_id)
        if record is None:
            return None
        progress = position = None
        if record.status is JobStatus.RUNNING and (text := (yield ("GET", _progress(job_id)))):
            progress = Progress(*map(int, text.split("/")))
        if record.status is JobStatus.QUEUED:
            rank = yield ("ZRANK", INDICES[JobStatus.QUEUED], job_id)
            position = None if rank is None else int(rank) + 1
        return Report(record, progress, position)

    def update(self, job_id: JobId, transition: Transition) -> Program[JobRecord]:
        """Replace the record by ``transition(record)`` atomically and return the new one.

        ``transition`` may be called more than once, so it must be pure.

        Raises:
            NotFound: If there is no such job.
            Exception: Whatever ``transition`` raises; the record is then unchanged.
        """
        while True:
            before = yield from self.get(job_id)
            if before is None:
                raise NotFound(f"there is no job {job_id}")
            after = transition(before)
            if after == before:
                return before
            if (yield from self._replace(before, after)):
                return after.model_copy(update={"version": before.version + 1})

    def take_back(self, job_id: JobId, transition: Transition) -> Program[JobRecord | None]:
        """As :meth:`update`, but only while the job runs and nobody holds its lease; else None."""
        unleased = Guard(("GET", _lease(job_id)), "")
        while True:
            before = yield from self.get(job_id)
            if before is None or before.status is not JobStatus.RUNNING or (yield ("EXISTS", _lease(job_id))):
                return None
            after = transition(before)
            if (yield from self._replace(before, after, unleased)):
                return after.model_copy(update={"version": before.version + 1})

    def renew(self, job_id: JobId, attempt: int, progress: Progress | None) -> Program[None]:
        """Prolong an attempt's lease, even an expired one that nobody took, and tell its progress.

        Raises:
            LeaseLost: If the attempt no longer owns the job.
        """
        held = [
            Guard(("HGET", _place(job_id), "attempt"), str(attempt)),
            Guard(("HGET", _place(job_id), "status"), JobStatus.RUNNING),
        ]
        effects = [_take_lease(job_id, attempt, self.lease)]
        if progress:
            effects.append(("SET", _progress(job_id), f"{progress.step}/{progress.steps}"))
        if not (yield from commit(held, effects)):
            raise LeaseLost

    def unleased(self) -> Program[list[JobId]]:
        """Return the running jobs whose lease is gone, and perhaps one that ends while this looks."""
        running: list[JobId] = yield ("ZRANGE", INDICES[JobStatus.RUNNING], 0, -1)
        if not running:
            return []
        leases = yield ("MGET", *(_lease(job_id) for job_id in running))
        return [job_id for job_id, lease in zip(running, leases, strict=True) if lease is None]

    def _replace(self, before: JobRecord, after: JobRecord, *guards: Guard) -> Program[bool]:
        numbered = after.model_copy(update={"version": before.version + 1})
        return commit([_version_is(str(before.version), before.id), *guards], self._effects(before, numbered))

    def _effects(self, before: JobRecord | None, after: JobRecord) -> list[Command]:
        """Return all commands that a change of a record means."""
        text = after.model_dump_json(by_alias=True)
        fields = ("record", text, "version", after.version, "status", after.status, "attempt", after.attempt)
        effects: list[Command] = [("HSET", _place(after.id), *fields)]
        accepted_us = int(after.created_at.timestamp() * 1e6)
        for status, index in INDICES.items():
            here = after.status is status
            effects.append(("ZADD", index, accepted_us, after.id) if here else ("ZREM", index, after.id))
        if before is None:
            effects.append(("ZADD", _open(after.team_id), accepted_us, after.id))
            effects += teams.spend(after.team_id, after.user_id, after.price, after.created_at)
        if after.status is JobStatus.RUNNING:
            effects += [("ZREM", PUBLISHED, after.id), _take_lease(after.id, after.attempt, self.lease)]
        else:
            effects += [("DEL", _lease(after.id), _progress(after.id)), *ring()]
        if after.finished and not (before and before.finished):
            effects += _completion(after)
        if before and after.erased_at and not before.erased_at:
            own = [before.parameters.source] if before.owns_source else []
            effects += [discard(key) for key in (*(variation.key for variation in before.variations), *own)]
        return effects


def ring() -> list[Command]:
    """Return the commands that wake the dispatcher; ringing twice wakes it once."""
    return [("LPUSH", DOORBELL, 1), ("LTRIM", DOORBELL, 0, 0)]


def _completion(record: JobRecord) -> list[Command]:
    """Return what happens once, when a job ends: it is told, its variations get their owner, the rest is given back."""
    ended = ("id", record.id, "status", record.status)
    told: Command = ("XADD", COMPLETIONS, "MAXLEN", "~", COMPLETIONS_KEPT, "*", *ended)
    owned = [
        keep(
            Asset(
                key=variation.key,
                team_id=record.team_id,
                user_id=record.user_id,
                content_type=variation.content_type,
                size_bytes=variation.size_bytes,
                created_at=record.finished_at or record.created_at,
                stored=True,
                job_id=record.id,
            )
        )
        for variation in record.variations
    ]
    unused = record.price - record.charged
    settled = teams.spend(record.team_id, record.user_id, -unused, record.finished_at or record.created_at)
    return [told, ("ZREM", _open(record.team_id), record.id), *owned, *settled]


def _take_lease(job_id: JobId, attempt: int, lease: timedelta) -> Command:
    return ("SET", _lease(job_id), attempt, "PX", int(lease.total_seconds() * 1000))


def _version_is(version: str, job_id: JobId) -> Guard:
    return Guard(("HGET", _place(job_id), "version"), version)


def _place(job_id: JobId) -> str:
    return f"job:{job_id}"


def _lease(job_id: JobId) -> str:
    return f"lease:{job_id}"


def _open(team_id: TeamId) -> str:
    """Return the sorted set of a team's jobs that wait or run, by time of acceptance."""
    return f"team:{team_id}:open"


def _progress(job_id: JobId) -> str:
    return f"progress:{job_id}"
