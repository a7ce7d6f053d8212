"""Puts a worker together: model, engine, leases, runner, Celery."""

import os
import socket
import sys
from threading import Timer
from typing import Any

import structlog
from celery import Celery, signals
from celery.concurrency import get_implementation

from shared import queue
from shared.errors import ShuttingDown
from shared.job_store import JobStore
from shared.jobs import ModelIdentity
from shared.object_store import ObjectStore
from shared.programs import connect, run
from shared.settings import Settings
from worker.engine import Engine, Model
from worker.lease import LeaseKeeper
from worker.runner import Runner, Score
from worker.tasks import register

log = structlog.get_logger(__name__)


class Worker:
    """One worker process around one warm model."""

    def __init__(self, settings: Settings, model: Model, score: Score, identity: ModelIdentity) -> None:
        self._settings = settings
        self._name = settings.worker.name or f"{socket.gethostname()}-{os.getpid()}"
        records = connect(settings.records.url.get_secret_value())
        store = JobStore(settings.jobs.lease_seconds)
        self._engine = Engine(model)
        self._keeper = LeaseKeeper(records, store, name=self._name, slots=settings.worker.slots)
        self._runner = Runner(
            settings=settings,
            update=lambda job_id, transition: run(records, store.update(job_id, transition)),
            keeper=self._keeper,
            objects=ObjectStore(settings.storage),
            engine=self._engine,
            score=score,
            model=identity,
        )

    def work(self) -> None:
        """Take jobs until SIGTERM; then finish or hand back what runs, and return."""
        app = queue.make_celery(self._settings.broker.url.get_secret_value())
        register(app, self._runner.run)
        signals.setup_logging.connect(_keep_our_logging)
        signals.worker_shutting_down.connect(self._on_shutting_down)
        self._engine.start()
        self._keeper.start()
        log.info("ready", worker=self._name)
        try:
            _consume(app, self._name, self._settings.worker.slots)
        finally:
            self._keeper.stop()
            self._engine.stop()

    def _on_shutting_down(self, **_: object) -> None:
        """Give running jobs the grace period, then take them away from the engine at its next step."""
        grace = Timer(self._settings.worker.grace_seconds.total_seconds(), self._keeper.end_all, [ShuttingDown()])
        grace.daemon = True
        grace.start()
        self._keeper.retire()


def _consume(app: Celery, name: str, slots: int) -> None:
    """Run Celery's worker; an end that was not asked for ends the process with its exit code."""
    options: dict[str, Any] = {
        "hostname": f"celery@{name}",
        "pool_cls": get_implementation("threads"),
        "concurrency": slots,
        "queues": [queue.QUEUE],
        "without_gossip": True,
        "without_mingle": True,
        "quiet": True,
    }
    consumer = app.Worker(**options)
    consumer.start()
    if consumer.exitcode:
        sys.exit(consumer.exitcode)


def _keep_our_logging(**_: object) -> None:
    """Celery configures logging unless somebody answers its signal."""
