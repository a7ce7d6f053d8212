"""Celery's view of a job: takes its id, says how it ended. The work is the runner's."""

from typing import Any, Protocol

from celery import Celery, Task
from celery.exceptions import Ignore

from shared.errors import JobError
from shared.ids import JobId
from shared.jobs import JobRecord, JobStatus
from shared.queue import AHEAD, TASK


class RunJob(Protocol):
    """Runs a job's next attempt and returns the record as that left it; None if it is not this worker's."""

    def __call__(self, job_id: JobId, *, ahead: bool) -> JobRecord | None: ...


def register(app: Celery, run_job: RunJob) -> None:
    """Make the application answer its task by running the job.

    The task's outcome, which monitors show, is the record's: a job that failed is a failed task, and an attempt that
    did not end the job (a duplicate, lost, handed back) leaves no outcome at all.
    """

    @app.task(name=TASK, throws=(JobError,), bind=True)
    def vary(task: Task[Any, Any], job_id: str) -> None:
        delivered = task.request.delivery_info or {}
        record = run_job(JobId(job_id), ahead=delivered.get("routing_key") == AHEAD)
        if record is None or not record.finished:
            raise Ignore
        if record.status is not JobStatus.SUCCEEDED:
            raise JobError(record.failure.message if record.failure else f"the job was {record.status}")
