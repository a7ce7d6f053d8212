"""What a change of a job's record means elsewhere, worked out in one place from the record before and after.

Whoever changes a record commits these commands with it as one atomic step. Scores of the indices by time are the
instants of acceptance in microseconds; all other scores are Unix seconds.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from shared import batches, teams
from shared.assets import Asset, discard, keep, orphan, plan, unplan
from shared.ids import JobId, TeamId
from shared.jobs import AnyEvent, JobRecord, JobStatus, Lane, Told
from shared.programs import Command, Program

EVERYWHERE: Final = "jobs"  #: scope of the indices of all teams' jobs
PUBLISHED: Final = "jobs:published"  #: queued jobs whose message is under way, by time of publishing
BACKLOG: Final = "queue:work"  #: hash of the queued jobs' work in TFLOP by queue
UNREADABLE: Final = "jobs:unreadable"  #: jobs that were set aside
EXPIRING: Final = "jobs:expiring"  #: jobs by the deadline of the status that they have
DELIVERIES: Final = "webhooks:due"  #: webhook calls to make, by the time of the next
DOORBELL: Final = "dispatcher:doorbell"  #: a list with an entry when the dispatcher has something to do
ROOM_WANTED: Final = "dispatcher:room-wanted"  #: a list; whoever leaves a slot moves its entry, if any, to the doorbell
COMPLETIONS: Final = "jobs:completions"  #: stream with one entry each time a job ended
COMPLETIONS_KEPT: Final = 10_000  #: entries, about


class Cursor(NamedTuple):
    """Where a page of a list ended."""

    accepted_us: int
    job_id: JobId


class Queue(NamedTuple):
    """One team's jobs of one lane that wait to be published."""

    lane: Lane
    team_id: TeamId

    @property
    def place(self) -> str:
        return f"queue:{self}"

    def __str__(self) -> str:
        return f"{self.lane}:{self.team_id}"


def effects(before: JobRecord | None, after: JobRecord, lease: timedelta) -> list[Command]:
    """Return all commands that a change of a record means; ``before`` is None for a new one."""
    text = after.model_dump_json(by_alias=True)
    fields = ("record", text, "version", after.version, "status", after.status, "attempt", after.attempt)
    fixed = ("work", after.parameters.work, "lane", after.lane, "accepted", accepted_us(after))
    commands: list[Command] = [("HSET", place(after.id), *fields, *fixed)]
    if before is None or before.status is not after.status:
        commands += _moved(before, after, lease)
    commands += [*_settled(before, after), *_deadline(after), *told(before, after)]
    if before and after.erased_at and not before.erased_at:
        own = [before.parameters.source] if before.owns_source else []
        for key in (*(variation.key for variation in before.variations), *own):
            commands += [*discard(key), orphan(key, after.erased_at)]
    return commands


def forgotten(record: JobRecord) -> list[Command]:
    """Return the commands after which nothing is known of a job that has ended."""
    indices = [index(scope, record.status) for scope in scopes(record)]
    calls: list[Command] = [("ZREM", DELIVERIES, call) for call in _due(record)]
    return [("DEL", place(record.id)), *(("ZREM", name, record.id) for name in indices), *calls]


def ring() -> list[Command]:
    """Return the commands that wake the dispatcher; ringing twice wakes it once."""
    return [("LPUSH", DOORBELL, 1), ("LTRIM", DOORBELL, 0, 0)]


def want_room() -> list[Command]:
    """Return the commands by which the dispatcher asks to be woken when a job leaves its slot."""
    return [("LPUSH", ROOM_WANTED, 1), ("LTRIM", ROOM_WANTED, 0, 0)]


def adopted(record: JobRecord, *, counted: bool) -> list[Command]:
    """Return the commands that an open job lacks that was set aside, or that the release before left as it is.

    Args:
        record: The job.
        counted: Whether its work is among that of its queue: being set aside takes nothing from that.
    """
    commands: list[Command] = [
        ("ZADD", index(scope, record.status), accepted_us(record), record.id) for scope in scopes(record)
    ]
    commands += [("HSET", place(record.id), "work", record.parameters.work), ("ZREM", UNREADABLE, record.id)]
    commands += _deadline(record)
    if record.status is JobStatus.RUNNING:
        return commands
    left = [orphan(key, record.created_at) for key in record.planned_keys]
    waits, adds_work = queued(record)
    return [*commands, *left, ("ZREM", PUBLISHED, record.id), waits, *([] if counted else [adds_work])]


def queued(record: JobRecord) -> list[Command]:
    """Return the commands that make a job wait for the dispatcher."""
    queue = Queue(record.lane, record.team_id)
    return [
        ("ZADD", queue.place, accepted_us(record), record.id),
        ("HINCRBY", BACKLOG, str(queue), record.parameters.work),
    ]


def _moved(before: JobRecord | None, after: JobRecord, lease: timedelta) -> list[Command]:
    """Return what a change of status means for indices, queues, lease and the one who waits for it."""
    commands: list[Command] = []
    for scope in scopes(after):
        if before:
            commands.append(("ZREM", index(scope, before.status), after.id))
        commands.append(("ZADD", index(scope, after.status), accepted_us(after), after.id))
    commands += batches.job_moved(before, after)
    if before and before.status is JobStatus.QUEUED:
        queue = Queue(after.lane, after.team_id)
        commands += [("ZREM", queue.place, after.id), ("ZREM", PUBLISHED, after.id)]
        commands.append(("HINCRBY", BACKLOG, str(queue), -before.parameters.work))
    if before and before.status is JobStatus.RUNNING:
        commands.append(("DEL", lease_place(after.id), progress_place(after.id)))
        ended = after.status_at or after.created_at
        commands += [orphan(key, ended) for key in sorted(after.unpublished_keys)]
        commands += [unplan(key) for key in after.planned_keys]
    if after.status is JobStatus.RUNNING:
        at = after.started_at or after.created_at
        taken = [plan(key, at) for key in after.planned_keys]
        return [*commands, *taken, take_lease(after.id, after.attempt, lease)]
    if after.status is JobStatus.QUEUED:
        return [*commands, *queued(after), *ring()]
    return [*commands, ("LMOVE", ROOM_WANTED, DOORBELL, "LEFT", "LEFT"), ("LTRIM", DOORBELL, 0, 0)]


def _settled(before: JobRecord | None, after: JobRecord) -> list[Command]:
    """Return what beginning and end of a job mean: what it costs, who hears of it, who owns what came out."""
    commands: list[Command] = []
    at = after.status_at or after.created_at
    if price := reserved(after) - (reserved(before) if before else 0):
        commands += teams.spend(after.team_id, after.user_id, price, at)
    was_open = before is not None and not before.finished
    if was_open and after.finished:
        ended = ("id", after.id, "status", after.status)
        commands.append(("XADD", COMPLETIONS, "MAXLEN", "~", COMPLETIONS_KEPT, "*", *ended))
        commands.append(("ZREM", open_jobs(after.team_id), after.id))
        for asset in _variations(after, at):
            commands += keep(asset)
    if not was_open and not after.finished:
        commands.append(("ZADD", open_jobs(after.team_id), accepted_us(after), after.id))
    return commands


def _deadline(after: JobRecord) -> list[Command]:
    if after.expires_at:
        return [("ZADD", EXPIRING, _seconds(after.expires_at), after.id)]
    return [("ZREM", EXPIRING, after.id)] if after.max_queue or after.max_run else []


def told(before: Told | None, after: Told) -> list[Command]:
    """Return what a change means for the webhook calls that are to come."""
    old = _due(before) if before else {}
    new = _due(after)
    gone: list[Command] = [("ZREM", DELIVERIES, call) for call in old.keys() - new.keys()]
    return gone + [("ZADD", DELIVERIES, at, call) for call, at in new.items() if old.get(call) != at]


def _due(record: Told) -> dict[str, float]:
    return {
        delivery_name(record, delivery.event): _seconds(delivery.next_at)
        for delivery in record.deliveries
        if delivery.next_at
    }


def _variations(record: JobRecord, at: datetime) -> list[Asset]:
    return [
        Asset(
            key=variation.key,
            team_id=record.team_id,
            user_id=record.user_id,
            content_type=variation.content_type,
            size_bytes=variation.size_bytes,
            created_at=at,
            stored=True,
            job_id=record.id,
        )
        for variation in record.variations
    ]


def reserved(record: JobRecord) -> int:
    """Return the credits that a job has taken from its team."""
    return record.charged if record.finished else record.price


def accepted_us(record: JobRecord) -> int:
    return int(record.created_at.timestamp() * 1e6)


def take_lease(job_id: JobId, attempt: int, lease: timedelta) -> Command:
    return ("SET", lease_place(job_id), attempt, "PX", int(lease.total_seconds() * 1000))


def scopes(record: JobRecord) -> tuple[str, str]:
    return EVERYWHERE, team_scope(record.team_id)


def team_scope(team_id: TeamId) -> str:
    return f"team:{team_id}"


def index(scope: str, status: JobStatus) -> str:
    """Return the sorted set of a scope's jobs of one status, by time of acceptance."""
    return f"{scope}:{status}"


def open_jobs(team_id: TeamId) -> str:
    """Return the sorted set of a team's jobs that wait or run, by time of acceptance."""
    return f"team:{team_id}:open"


def delivery_name(record: Told, event: AnyEvent) -> str:
    """Return what a webhook call is called while it is to come: team, job or batch, and event."""
    return f"{record.team_id} {record.id} {event}"


def place(job_id: JobId) -> str:
    return f"job:{job_id}"


def lease_place(job_id: JobId) -> str:
    return f"lease:{job_id}"


def progress_place(job_id: JobId) -> str:
    return f"progress:{job_id}"


def _seconds(moment: datetime) -> float:
    return round(moment.timestamp(), 3)


def newest(name: str, count: int, after: Cursor | None) -> Program[list[Cursor]]:
    """Return the newest so many entries of an index that come after the cursor."""
    top, offset = (after.accepted_us if after else "+inf"), 0
    found: list[Cursor] = []
    while True:  # of jobs that were accepted in one microsecond, some may stand before the cursor
        rows = yield ("ZRANGE", name, top, "-inf", "BYSCORE", "REV", "LIMIT", offset, count, "WITHSCORES")
        page = [Cursor(int(float(score)), JobId(job_id)) for job_id, score in rows]
        found += [entry for entry in page if after is None or entry < after]
        if len(found) >= count or len(page) < count:
            return found[:count]
        offset += count
