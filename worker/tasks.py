"""Celery's view of a job: takes its id, says how it ended. The work is the runner's."""

from collections.abc import Callable

from celery import Celery
from celery.exceptions import Ignore

from shared.errors import JobError
from shared.ids import JobId
from shared.jobs import JobRecord, JobStatus
from shared.queue import TASK


def register(app: Celery, run_job: Callable[[JobId], JobRecord | None]) -> None:
    """Make the application answer its task by running the job.

    The task's outcome, which monitors show, is the record's: a job that failed is a failed task, and an attempt that
    did not end the job (a duplicate, lost, handed back) leaves no outcome at all.
    """

    @app.task(name=TASK, throws=(JobError,))
    def vary(job_id: str) -> None:
        record = run_job(JobId(job_id))
        if record is None or not record.finished:
            raise Ignore
        if record.status is not JobStatus.SUCCEEDED:
            raise JobError(record.failure.message if record.failure else f"the job was {record.status}")
