"""What tests read of the dispatcher's queues, past its own programs."""

from shared.backlog import PLACE, Backlog
from shared.ids import JobId
from shared.job_index import EVERYWHERE, PUBLISHED, index
from shared.jobs import JobStatus
from shared.presence import WorkerLife
from shared.programs import Program

LIFE = WorkerLife(slots=2, speed=0)


def told() -> Program[Backlog]:
    """Return what the dispatcher told last."""
    return Backlog.parse((yield ("GET", PLACE)))


def queued_jobs() -> Program[list[JobId]]:
    """Return all queued jobs in order of acceptance."""
    jobs: list[JobId] = yield ("ZRANGE", index(EVERYWHERE, JobStatus.QUEUED), 0, -1)
    return jobs


def published_jobs() -> Program[list[JobId]]:
    """Return the queued jobs whose message is under way, in the order of publishing."""
    jobs: list[JobId] = yield ("ZRANGE", PUBLISHED, 0, -1)
    return jobs
