"""What waits, runs and is due, as the dispatcher sees and changes it.

Deadlines, ageing and webhooks compare instants that several machines told, so their clocks must agree within a second
or so.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from shared.ids import JobId, TeamId
from shared.job_index import (
    BACKLOG,
    DELIVERIES,
    DOORBELL,
    EVERYWHERE,
    EXPIRING,
    PUBLISHED,
    UNREADABLE,
    Queue,
    index,
    place,
    progress_place,
)
from shared.jobs import JobStatus, Lane
from shared.presence import leader, living_workers
from shared.programs import Bounds, Command, Guard, Program, commit, lowest, members, together
from shared.progress import Progress

AHEAD: Final = "1"  #: field of a published job that goes ahead of what runs
SEEN: Final = 64  #: jobs that are compared with each other, at least, when few queues have any
SHARES: Final = "queue:shares"  #: hash of what each team was given so far, in TFLOP; the clock of all under ""


class Waiting(NamedTuple):
    """A job that waits to be published."""

    job_id: JobId
    queue: Queue
    accepted_us: int
    work: int  #: TFLOP
    again: bool = False  #: it was started before


class Messages(NamedTuple):
    """How it stands with the messages of queued jobs; a job that is claimed meanwhile may count."""

    unpublished: int  #: jobs without one; a job whose record is gone may hide another until its message is overdue
    published: int  #: jobs whose message is under way
    oldest: Mapping[JobId, float]  #: the oldest of these, with the server's time, in seconds, at which it went out


class UnderWay(NamedTuple):
    """A job that was published or runs."""

    lane: Lane
    accepted_us: int
    work: int  #: TFLOP
    left: float  #: TFLOP
    ahead: bool  #: whether it was published to go ahead of what runs


class Shares(NamedTuple):
    """How the work was shared so far, in TFLOP of virtual time."""

    clock: int
    teams: Mapping[TeamId, int]  #: each one's newest job ends here


class Figures(NamedTuple):
    """How it stands."""

    jobs: Mapping[str, int]  #: that have not ended, by status, and those that were set aside
    oldest: float  #: seconds since the oldest queued job was accepted; 0: there is none
    led: bool  #: whether a dispatcher leads
    workers: int  #: that live
    full: float  #: share of the memory it may have that the records server uses; 0: it has no limit


def figures() -> Program[Figures]:
    """Return how it stands, by the server's time."""
    places = {status: index(EVERYWHERE, status) for status in (JobStatus.QUEUED, JobStatus.RUNNING)}
    counts = yield [("ZCARD", name) for name in (*places.values(), UNREADABLE)]
    oldest = yield ("ZRANGE", places[JobStatus.QUEUED], 0, 0, "WITHSCORES")
    now, led, lives = (yield from server_seconds()), (yield from leader()), (yield from living_workers())
    waited = max(0.0, now - oldest[0][1] / 1e6) if oldest else 0.0
    memory = yield ("INFO", "memory")
    full = memory["used_memory"] / memory["maxmemory"] if memory["maxmemory"] else 0.0
    return Figures(dict(zip((*places, "set_aside"), counts, strict=True)), waited, led is not None, len(lives), full)


def wait_for_ring(timeout: timedelta) -> Program[None]:
    """Return when the doorbell rings, or after the timeout."""
    yield ("BLPOP", DOORBELL, timeout.total_seconds())


def server_run() -> Program[str]:
    """Return the id of the server's present run; a restart changes it."""
    return str((yield ("INFO", "server"))["run_id"])


def server_seconds() -> Program[float]:
    """Return the server's time."""
    seconds, microseconds = yield ("TIME",)
    return int(seconds) + int(microseconds) / 1e6


def work_of(jobs: Sequence[JobId]) -> Program[int]:
    """Return the work of all these jobs together, in TFLOP."""
    return sum(int(work or 0) for (work,) in (yield from _told(jobs, "work")))


def under_way(lost: Container[JobId]) -> Program[list[UnderWay]]:
    """Return how far the published jobs are and those that run, but for the lost ones.

    What nobody told of a job of the release before is taken for little.
    """
    told = [f"{place(JobId('*'))}->{field}" for field in ("lane", "accepted", "work", "ahead")]
    asked: list[Program[Any]] = [
        members(PUBLISHED, *told),
        members(index(EVERYWHERE, JobStatus.RUNNING), *told, progress_place(JobId("*"))),
    ]
    published, running = yield from together(asked)
    jobs = {**dict(published), **dict(running)}  # in this order none is missed that is claimed in between
    return [
        UnderWay(
            lane=Lane(lane or Lane.NORMAL),
            accepted_us=int(accepted or 0),
            work=int(work or 0),
            left=int(work or 0) * (1 - (Progress.parse(done[0]).done if any(done) else 0.0)),
            ahead=ahead == AHEAD,
        )
        for job_id, (lane, accepted, work, ahead, *done) in jobs.items()
        if job_id not in lost
    ]


def went_ahead(jobs: Sequence[JobId]) -> Program[set[JobId]]:
    """Return which of these jobs were published to go ahead of what runs."""
    told = yield from _told(jobs, "ahead")
    return {job_id for job_id, (ahead,) in zip(jobs, told, strict=True) if ahead == AHEAD}


def messages(limit: int) -> Program[Messages]:
    """Return how many queued jobs have no message, how many have one, and since when the oldest so many have it."""
    queued, sent, aside, oldest = yield [
        ("ZCARD", index(EVERYWHERE, JobStatus.QUEUED)),
        ("ZCARD", PUBLISHED),
        # One that was set aside while it waited for its message is in no index, but gets it all the same.
        ("ZINTERCARD", 2, UNREADABLE, PUBLISHED),
        ("ZRANGE", PUBLISHED, 0, limit - 1, "WITHSCORES"),
    ]
    return Messages(int(queued) - int(sent) + int(aside), int(sent), {JobId(job_id): at for job_id, at in oldest})


def backlog() -> Program[dict[Queue, int]]:
    """Return the queued work in TFLOP by queue; one that is done away with shows 0 or is left out."""
    found = yield ("HGETALL", BACKLOG)
    names = (name.partition(":") for name in found)
    return {Queue(Lane(lane), TeamId(team)): int(found[f"{lane}:{team}"]) for lane, _, team in names}


def lengths(queues: Sequence[Queue]) -> Program[dict[Queue, int]]:
    """Return how many jobs wait in each queue to be published."""
    counts = yield [("ZCARD", queue.place) for queue in queues]
    return dict(zip(queues, map(int, counts), strict=True))


def drop_empty(queues: Iterable[Queue]) -> Program[None]:
    """Forget queues that have no queued job; one that was claimed before a queue held it left less than no work."""
    for queue in queues:
        nothing = [
            Bounds(read, least=-(2**53), most=0) for read in (("HGET", BACKLOG, str(queue)), ("ZCARD", queue.place))
        ]
        yield from commit(nothing, [("HDEL", BACKLOG, str(queue))])


def waiting(queues: Collection[Queue], limit: int) -> Program[list[Waiting]]:
    """Return the oldest jobs of each of these queues: so many, or more of each if there are few queues."""
    each = max(limit, SEEN // max(1, len(queues)))
    heads = yield from together([_head(queue, each) for queue in queues])
    return [job for head in heads for job in head]


def _head(queue: Queue, limit: int) -> Program[list[Waiting]]:
    fields = (f"{place(JobId('*'))}->{field}" for field in ("work", "attempt"))
    asked: list[Program[Any]] = [_scores(queue.place, limit), members(queue.place, *fields, limit=limit)]
    accepted, found = yield from together(asked)
    return [
        Waiting(JobId(job_id), queue, int(accepted[job_id]), int(work or 0), again=int(attempt or 0) > 0)
        for job_id, (work, attempt) in found
        if job_id in accepted  # others came or left in between
    ]


def shares() -> Program[Shares]:
    """Return how the work was shared so far."""
    found = {TeamId(team): int(given) for team, given in (yield ("HGETALL", SHARES)).items()}
    return Shares(found.pop(TeamId(""), 0), found)


def mark_published(jobs: Sequence[Waiting], ahead: Container[JobId], given: Shares, now: float) -> Program[bool]:
    """Note that messages for these jobs go out now; False, and nothing noted, if one of them no longer waits.

    Args:
        jobs: To publish.
        ahead: Those among them that go ahead of what runs.
        given: How the work is shared with them.
        now: The server's time.
    """
    still = [Bounds(("ZSCORE", job.queue.place, job.job_id), least=1) for job in jobs]
    by_queue = defaultdict[Queue, list[JobId]](list)
    for job in jobs:
        by_queue[job.queue].append(job.job_id)
    moved: list[Command] = [("ZREM", queue.place, *there) for queue, there in by_queue.items()]
    moved.append(("ZADD", PUBLISHED, *(part for job in jobs for part in (now, job.job_id))))
    moved += [("HSET", place(job.job_id), "ahead", AHEAD if job.job_id in ahead else "") for job in jobs]
    teams = {job.queue.team_id for job in jobs}
    counted = [part for team in sorted(teams) for part in (team, given.teams[team])]
    return (yield from commit(still, [*moved, ("HSET", SHARES, "", given.clock, *counted)]))


def mark_again(jobs: Iterable[JobId], now: float) -> Program[list[JobId]]:
    """Note that the messages of published jobs go out once more; return those that are still queued.

    The others, ended or gone, take nobody's room any more.
    """
    again = []
    for job_id in jobs:
        queued = Guard(("HGET", place(job_id), "status"), JobStatus.QUEUED)
        published = Bounds(("ZSCORE", PUBLISHED, job_id), least=1)
        if (yield from commit([queued, published], [("ZADD", PUBLISHED, now, job_id)])):
            again.append(job_id)
        else:
            yield ("ZREM", PUBLISHED, job_id)
    return again


def forget_shares(teams: Iterable[TeamId]) -> Program[None]:
    """Forget what teams were given that the clock has overtaken: they count as newcomers anyway."""
    if names := list(teams):
        yield ("HDEL", SHARES, *names)


def stray_jobs() -> Program[list[JobId]]:
    """Return queued jobs that no queue holds, perhaps some that change meanwhile, then those that were set aside."""
    aside: list[JobId] = yield ("ZRANGE", UNREADABLE, 0, -1)
    queues = yield from backlog()
    held = set((yield ("ZRANGE", PUBLISHED, 0, -1)))
    for queue in queues:
        held.update((yield ("ZRANGE", queue.place, 0, -1)))
    queued: list[JobId] = yield ("ZRANGE", index(EVERYWHERE, JobStatus.QUEUED), 0, -1)
    return [job_id for job_id in queued if job_id not in held] + aside


def expiring(until: datetime, limit: int) -> Program[list[JobId]]:
    """Return jobs whose deadline has passed."""
    jobs: list[JobId] = yield lowest(EXPIRING, until.timestamp(), limit)
    return jobs


def accepted_before(status: JobStatus, until: datetime, limit: int) -> Program[list[JobId]]:
    """Return jobs of one status that were accepted before."""
    most = int(until.timestamp() * 1e6)
    jobs: list[JobId] = yield lowest(index(EVERYWHERE, status), most, limit)
    return jobs


def due_deliveries(until: datetime, limit: int) -> Program[list[tuple[str, float]]]:
    """Return webhook calls that are due, each as :func:`shared.job_index.delivery_name` says, with its time."""
    rows = yield (*lowest(DELIVERIES, until.timestamp(), limit), "WITHSCORES")
    return [(name, float(due)) for name, due in rows]


def claim_delivery(name: str, due: float, until: datetime) -> Program[bool]:
    """Take a webhook call for oneself until then; False if another took it."""
    unclaimed = Bounds(("ZSCORE", DELIVERIES, name), least=due, most=due)
    return (yield from commit([unclaimed], [("ZADD", DELIVERIES, until.timestamp(), name)]))


def postpone_deliveries(names: Sequence[str], until: datetime) -> Program[None]:
    """Put webhook calls off, unless they were made meanwhile."""
    if names:
        yield ("ZADD", DELIVERIES, "XX", *(part for name in names for part in (until.timestamp(), name)))


def _told(jobs: Sequence[JobId], *fields: str) -> Program[list[list[str | None]]]:
    """Return fields of each job's record."""
    found: list[list[str | None]] = yield [("HMGET", place(job_id), *fields) for job_id in jobs]
    return found


def _scores(key: str, limit: int) -> Program[dict[JobId, float]]:
    """Return so many members of a sorted set with their scores, the lowest first."""
    return {JobId(job_id): score for job_id, score in (yield ("ZRANGE", key, 0, limit - 1, "WITHSCORES"))}
