"""A worker without Celery, on real servers; only the weights are missing."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import redis

from shared.clock import Clock
from shared.connections import run
from shared.errors import NotFound
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord
from shared.object_store import ObjectStore
from shared.presence import WorkerLife
from shared.settings import Settings
from shared.transitions import Transition
from tests.models import ChosenScores, PacedModel
from tests.samples import MODEL, record
from worker.engine import Engine
from worker.lease import LeaseKeeper
from worker.runner import Runner

STORE = JobStore(timedelta(seconds=1))
SOURCE = AssetKey("images/source.png")
CHECKED = MODEL.model_copy(update={"safety_checker": "checker"})


class Desk:
    """A worker without Celery."""

    def __init__(self, records: redis.Redis, objects: ObjectStore) -> None:
        self.records = records
        self.objects = objects
        self.model = PacedModel()
        self.engine = Engine(self.model, Clock(), timedelta(minutes=1), call_tokens=16_384)
        self.keeper = LeaseKeeper(records, STORE, Clock(), name="one", life=lambda: WorkerLife(2, self.engine.speed))
        self.score = ChosenScores()
        self.runner = Runner(
            settings=Settings(),
            clock=Clock(),
            update=self.update,
            keeper=self.keeper,
            objects=objects,
            engine=self.engine,
            score=self.score,
            model=CHECKED,
        )
        self.engine.start()
        self.keeper.start()

    def runner_with(self, **others: Any) -> Runner:
        return replace(self.runner, **others)

    def run(self, runner: Runner | None = None, **parameters: Any) -> JobRecord:
        """Return the record of a new job as its first attempt left it."""
        left = (runner or self.runner).run(self.accept(**parameters))
        assert left is not None
        return left

    def update(self, job_id: JobId, transition: Transition, known: JobRecord | None = None) -> JobRecord:
        return run(self.records, STORE.update(job_id, transition, known=known))

    def accept(self, **parameters: Any) -> JobId:
        job = record(**parameters)
        assert run(self.records, STORE.accept(job))
        return job.id

    def stored(self, job_id: JobId) -> JobRecord:
        job = run(self.records, STORE.get(job_id))
        assert job is not None
        return job

    def credit(self) -> int:
        return int(str(self.records.hget("team:team", "credit")))

    def is_there(self, key: AssetKey) -> bool:
        try:
            return bool(self.objects.get(key))
        except NotFound:
            return False
