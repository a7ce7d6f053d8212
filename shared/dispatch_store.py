"""What dispatcher and workers tell each other through the records server: who lives, who leads, what waits.

What lapses lapses by the server's clock. Deadlines, ageing and webhooks compare instants that several machines told, so
their clocks must agree within a second or so.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self

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
    ring,
)
from shared.jobs import JobStatus, Lane
from shared.programs import Bounds, Command, Guard, Program, commit, lowest

WORKERS: Final = "workers"  #: set of names of workers that were seen and may be gone
LEADER: Final = "dispatcher:leader"
SHARES: Final = "queue:shares"  #: hash of what each team was given so far, in TFLOP; the clock of all under ""


class WorkerLife(NamedTuple):
    """What a living worker says of itself."""

    slots: int  #: jobs it holds or would take now
    speed: float  #: TFLOP/s; 0: it has not run a job yet
    previews: int = 0  #: previews it holds or would take besides
    gpu: str = ""  #: UUID of the GPU that it has to itself, if it does
    normal: int | None = None  #: the same as slots without jobs of low priority; None: it has no queue for those

    @classmethod
    def parse(cls, told: str, previews: str | None, gpu: str | None, normal: str | None) -> Self:
        """Read what :func:`announce_worker` wrote, or earlier releases did, which told less."""
        slots, speed, *_ = *told.split(), 0
        return cls(int(slots), float(speed), int(previews or 0), gpu or "", int(normal) if normal else None)


class Waiting(NamedTuple):
    """A job that waits to be published."""

    job_id: JobId
    queue: Queue
    accepted_us: int
    work: int  #: TFLOP


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


def announce_worker(name: str, life: WorkerLife, lasts: timedelta) -> Program[None]:
    """Say that a warm worker lives."""
    told = (f"{life.slots} {life.speed:.6g}", life.previews, life.gpu, "" if life.normal is None else life.normal)
    alive: list[Command] = [("SET", *each, "PX", _ms(lasts)) for each in zip(_places(name), told, strict=True)]
    yield from commit([], [("SADD", WORKERS, name), *alive])


def retire_worker(name: str) -> Program[None]:
    """Say that a worker takes no more jobs."""
    yield from commit([], [("SREM", WORKERS, name), ("DEL", *_places(name))])


def living_workers() -> Program[dict[str, WorkerLife]]:
    """Return the living workers by their names."""
    names = sorted((yield ("SMEMBERS", WORKERS)))
    if not names:
        return {}
    told = dict(zip(names, (yield [("MGET", *_places(name)) for name in names]), strict=True))
    gone = [name for name, (life, *_) in told.items() if life is None]
    if gone:
        yield ("SREM", WORKERS, *gone)
    return {name: WorkerLife.parse(*parts) for name, parts in told.items() if parts[0] is not None}


def lead(name: str, lasts: timedelta) -> Program[bool]:
    """Become or stay the one dispatcher that acts; False while another is."""
    if (yield from commit([Guard(("GET", LEADER), name)], [("PEXPIRE", LEADER, _ms(lasts))])):
        return True
    return (yield ("SET", LEADER, name, "NX", "PX", _ms(lasts))) is not None


def step_down(name: str) -> Program[None]:
    """Let another dispatcher lead at once."""
    yield from commit([Guard(("GET", LEADER), name)], [("DEL", LEADER), *ring()])


def leader() -> Program[str | None]:
    """Return the name of the dispatcher that leads, if one does."""
    name: str | None = yield ("GET", LEADER)
    return name


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
    return sum(int(work or 0) for work in (yield from _told(jobs, "work")))


def lanes_under_way(running: Sequence[JobId]) -> Program[Counter[str | None]]:
    """Return how many of the published and the running jobs each lane has.

    Of a job of the release before nobody knows until its claim.
    """
    published: list[JobId] = yield ("ZRANGE", PUBLISHED, 0, -1)
    return Counter((yield from _told([*published, *running], "lane")))


def published_count() -> Program[int]:
    """Return the number of queued jobs whose message is under way."""
    return int((yield ("ZCARD", PUBLISHED)))


def overdue(patience: timedelta, limit: int) -> Program[tuple[float, list[JobId]]]:
    """Return the server's time, and queued jobs whose message went out longer ago than that."""
    now = yield from server_seconds()
    jobs: list[JobId] = yield lowest(PUBLISHED, now - patience.total_seconds(), limit)
    return now, jobs


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


def waiting(lanes: Container[Lane], limit: int) -> Program[list[Waiting]]:
    """Return the oldest jobs of each queue of these lanes."""
    queues = [queue for queue in (yield from backlog()) if queue.lane in lanes]
    pages = yield [("ZRANGE", queue.place, 0, limit - 1, "WITHSCORES") for queue in queues]
    found = [
        (queue, JobId(job_id), int(score)) for queue, page in zip(queues, pages, strict=True) for job_id, score in page
    ]
    rows = zip(found, (yield from _told([job_id for _, job_id, _ in found], "work")), strict=True)
    return [Waiting(job_id, queue, accepted, int(work or 0)) for (queue, job_id, accepted), work in rows]


def shares() -> Program[Shares]:
    """Return how the work was shared so far."""
    found = {TeamId(team): int(given) for team, given in (yield ("HGETALL", SHARES)).items()}
    return Shares(found.pop(TeamId(""), 0), found)


def mark_published(jobs: Sequence[Waiting], given: Shares, now: float) -> Program[bool]:
    """Note that messages for these jobs go out now; False, and nothing noted, if one of them no longer waits."""
    still = [Bounds(("ZSCORE", job.queue.place, job.job_id), least=1) for job in jobs]
    by_queue = defaultdict[Queue, list[JobId]](list)
    for job in jobs:
        by_queue[job.queue].append(job.job_id)
    moved: list[Command] = [("ZREM", queue.place, *there) for queue, there in by_queue.items()]
    moved.append(("ZADD", PUBLISHED, *(part for job in jobs for part in (now, job.job_id))))
    teams = {job.queue.team_id for job in jobs}
    counted = [part for team in sorted(teams) for part in (team, given.teams[team])]
    return (yield from commit(still, [*moved, ("HSET", SHARES, "", given.clock, *counted)]))


def mark_again(jobs: Iterable[JobId], now: float) -> Program[list[JobId]]:
    """Note that the messages of published jobs go out once more; return those that are still queued."""
    again = []
    for job_id in jobs:
        queued = Guard(("HGET", place(job_id), "status"), JobStatus.QUEUED)
        if (yield from commit([queued], [("ZADD", PUBLISHED, now, job_id)])):
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


def _places(name: str) -> tuple[str, ...]:
    """Return where slots and speed stand, and each part told since: releases before would stumble over more in one."""
    return f"worker:{name}", *(f"worker:{name}:{part}" for part in ("previews", "gpu", "normal"))


def _told(jobs: Sequence[JobId], field: str) -> Program[list[str | None]]:
    """Return a field of each job's record."""
    found: list[str | None] = yield [("HGET", place(job_id), field) for job_id in jobs]
    return found


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
