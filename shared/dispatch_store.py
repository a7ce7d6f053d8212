"""What dispatcher and workers tell each other through the records server: who lives, who leads, what is under way.

All times are the server's own (keys that lapse), so no two machines' clocks are ever compared.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from shared.ids import JobId
from shared.job_store import DOORBELL, INDICES, PUBLISHED
from shared.jobs import JobStatus
from shared.programs import Guard, Program, commit

WORKERS: Final = "workers"  #: set of names of workers that were seen and may be gone
LEADER: Final = "dispatcher:leader"


def announce_worker(name: str, slots: int, lasts: timedelta) -> Program[None]:
    """Say that a warm worker lives and how many jobs it holds at a time."""
    yield from commit([], [("SADD", WORKERS, name), ("SET", _worker(name), slots, "PX", _ms(lasts))])


def retire_worker(name: str) -> Program[None]:
    """Say that a worker takes no more jobs."""
    yield from commit([], [("SREM", WORKERS, name), ("DEL", _worker(name))])


def living_workers() -> Program[dict[str, int]]:
    """Return each living worker's slots by its name."""
    names = sorted((yield ("SMEMBERS", WORKERS)))
    if not names:
        return {}
    slots = yield ("MGET", *(_worker(name) for name in names))
    gone = [name for name, count in zip(names, slots, strict=True) if count is None]
    if gone:
        yield ("SREM", WORKERS, *gone)
    return {name: int(count) for name, count in zip(names, slots, strict=True) if count is not None}


def lead(name: str, lasts: timedelta) -> Program[bool]:
    """Become or stay the one dispatcher that acts; False while another is."""
    if (yield ("SET", LEADER, name, "NX", "PX", _ms(lasts))) is not None:
        return True
    return (yield from commit([Guard(("GET", LEADER), name)], [("PEXPIRE", LEADER, _ms(lasts))]))


def step_down(name: str) -> Program[None]:
    """Let another dispatcher lead at once."""
    yield from commit([Guard(("GET", LEADER), name)], [("DEL", LEADER)])


def leader() -> Program[str | None]:
    name: str | None = yield ("GET", LEADER)
    return name


def wait_for_ring(timeout: timedelta) -> Program[None]:
    """Return when the doorbell rings, or after the timeout."""
    yield ("BLPOP", DOORBELL, timeout.total_seconds())


def server_run() -> Program[str]:
    """Return the id of the server's present run; a restart changes it."""
    return str((yield ("INFO", "server"))["run_id"])


def queued_jobs(limit: int) -> Program[list[JobId]]:
    """Return the oldest queued jobs in order of acceptance."""
    jobs: list[JobId] = yield ("ZRANGE", INDICES[JobStatus.QUEUED], 0, limit - 1)
    return jobs


def running_count() -> Program[int]:
    return int((yield ("ZCARD", INDICES[JobStatus.RUNNING])))


def published_jobs() -> Program[dict[JobId, float]]:
    """Return the queued jobs whose message is under way, with the server's time at which it was published."""
    yield ("ZINTERSTORE", PUBLISHED, 2, PUBLISHED, INDICES[JobStatus.QUEUED], "WEIGHTS", 1, 0)
    jobs: list[JobId] = yield ("ZRANGE", PUBLISHED, 0, -1)
    scores = (yield ("ZMSCORE", PUBLISHED, *jobs)) if jobs else []
    return {job_id: float(score) for job_id, score in zip(jobs, scores, strict=True) if score is not None}


def mark_published(jobs: Sequence[JobId]) -> Program[None]:
    """Note that messages for these jobs go out now."""
    if jobs:
        now = yield from server_seconds()
        yield ("ZADD", PUBLISHED, *(part for job_id in jobs for part in (now, job_id)))


def server_seconds() -> Program[float]:
    """Return the server's time."""
    seconds, microseconds = yield ("TIME",)
    return int(seconds) + int(microseconds) / 1e6


def _worker(name: str) -> str:
    return f"worker:{name}"


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
