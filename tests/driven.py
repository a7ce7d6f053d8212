"""An API with no dispatcher and no worker behind it, whose jobs a test takes from step to step."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import redis

from shared.connections import run
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord
from shared.keys import check_key
from shared.progress import Progress
from shared.transitions import claim, finish
from tests.samples import MODEL, record, variations_of

STORE = JobStore(timedelta(seconds=30))


@dataclass
class Driven:
    """A client of the API, and the records behind it."""

    client: httpx.Client
    records: redis.Redis
    key: str
    claims: int = 0

    def accept(self, created_at: datetime | None = None, **parameters: Any) -> JobId:
        me = run(self.records, check_key(self.key))
        job = record(created_at or datetime.now(UTC), **parameters)
        own = job.model_copy(update={"team_id": me.team_id, "user_id": me.user_id})
        return run(self.records, STORE.accept(own))

    def change(self, job_id: JobId, transition: Callable[[JobRecord], JobRecord]) -> JobRecord:
        return run(self.records, STORE.update(job_id, transition))

    def begin(self, job_id: JobId) -> None:
        self.claims += 1
        digits = range(4 * self.claims, 4 * self.claims + 4)
        self.change(job_id, lambda job: claim(job, now=datetime.now(UTC), prefix="", digits=digits))

    def step(self, job_id: JobId, step: int, *each: int) -> None:
        run(self.records, STORE.renew(job_id, 1, Progress(step, 28, each)))

    def end(self, job_id: JobId) -> None:
        self.change(job_id, _finished)


def _finished(job: JobRecord) -> JobRecord:
    now = datetime.now(UTC)
    return finish(job, attempt=job.attempt, variations=variations_of(job), model=MODEL, timings={}, now=now)
