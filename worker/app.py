"""Puts a worker together: model, engine, leases, runner, Celery."""

import logging
import os
import signal
import socket
import sys
from threading import Event, Timer
from typing import Any, Final

import structlog
from celery import Celery, signals
from celery.apps.worker import Worker as Consumer
from celery.concurrency import get_implementation

from shared import queue
from shared.clock import Clock
from shared.completions import follow_in_background
from shared.connections import connect, run
from shared.errors import ShuttingDown
from shared.heartbeat import heartbeat
from shared.job_store import JobStore
from shared.jobs import ModelIdentity
from shared.object_store import ObjectStore
from shared.presence import WorkerLife
from shared.settings import Settings
from worker import gate
from worker.broker import SteadyConnection
from worker.engine import Engine
from worker.lease import HEED, Lease, LeaseKeeper
from worker.runner import Runner, Score
from worker.tasks import register
from worker.work import Model

log = structlog.get_logger(__name__)

LEAD: Final = 0.5  #: seconds before the engine is free in which the next job may be claimed and its source read
GLANCE: Final = 0.1  #: seconds between two looks of a busy worker for what goes ahead: an idle one gets it first
SILENCE: Final = 5.0  #: seconds without a call after which the engine may hang
WAIT: Final = 1.0  #: seconds after which a job that the engine has not begun keeps no other out
NOTICE: Final = 1.5  #: seconds before the engine is free in which the dispatcher may publish the next job


class Worker:
    """One worker process around one warm model."""

    def __init__(
        self, settings: Settings, model: Model, score: Score, identity: ModelIdentity, *, gpu: str = ""
    ) -> None:
        self._settings = settings
        self._chosen = chosen = settings.worker
        self._gpu = gpu
        self._name = chosen.name or f"{socket.gethostname()}-{os.getpid()}"
        records = connect(settings.records.url.get_secret_value())
        store = JobStore(settings.jobs.lease_seconds)
        self._clock = Clock()
        self._asks_at = 0.0  #: monotonic; when a busy worker looks again for what goes ahead
        beat = heartbeat(chosen.heartbeat_file)
        self._engine = Engine(model, self._clock, chosen.stall_seconds, chosen.call_tokens, beat)
        self._keeper = LeaseKeeper(records, store, self._clock, name=self._name, life=self._life)
        self._runner = Runner(
            settings=settings,
            clock=self._clock,
            update=lambda job_id, change, known: run(records, store.update(job_id, change, known=known)),
            keeper=self._keeper,
            objects=ObjectStore(settings.storage, tries=1),  # the runner itself is patient
            engine=self._engine,
            score=score,
            model=identity,
        )

    def work(self) -> None:
        """Take jobs until SIGTERM; then finish or hand back what runs, and return."""
        app = queue.make_celery(self._settings.broker.url.get_secret_value())
        app.amqp.Connection = SteadyConnection
        register(app, self._runner.run)
        gate.install(app, self._opened)
        signals.setup_logging.connect(_keep_our_logging)
        signals.worker_shutting_down.connect(self._on_shutting_down)
        self._engine.start()
        self._keeper.start()
        stop = Event()
        follow_in_background(self._settings, self._keeper.doubt, self._clock, stop, HEED)
        log.info("ready", worker=self._name)
        try:
            _consume(app, self._name, self._chosen.slots + self._chosen.ahead)
        finally:
            stop.set()
            self._keeper.stop()
            self._engine.stop()

    def _life(self) -> WorkerLife:
        """Return what the dispatcher may count on: room for jobs held, and for the next one if its time comes soon."""
        leases = self._keeper.held()
        ahead = self._ahead(leases)
        slots = len(leases) - ahead + self._takes_next(NOTICE, leases)
        return WorkerLife(slots, self._engine.speed, max(ahead, self._most_ahead()), self._gpu)

    def _opened(self, held: int) -> list[str]:
        """Return the queues from which the worker takes another message while it has so many."""
        leases, now = self._keeper.held(), self._clock.monotonic()
        unclaimed = held - len(leases)
        if unclaimed <= 0 and self._takes_next(LEAD, leases):
            self._asks_at = now + GLANCE
            return [queue.AHEAD, queue.QUEUE]
        if self._keeper.resting() or now < self._asks_at:
            return []
        self._asks_at = now + GLANCE
        ahead = sum(lease.ahead for lease in leases) + unclaimed  # what is not claimed yet may be one
        return [queue.AHEAD] if ahead < self._most_ahead() else []

    def _most_ahead(self) -> int:
        """Return how many jobs may go ahead: none of what hangs, perhaps, and would take them with it."""
        return self._chosen.ahead if self._engine.silence < SILENCE else 0

    def _takes_next(self, seconds: float, leases: list[Lease]) -> bool:
        """Say whether the engine needs its next job so soon, since it has begun all of these that take a slot.

        Previews that went ahead keep nobody out: they may follow each other without end.
        """
        if self._keeper.resting() or self._in_slots(leases) >= self._chosen.slots:
            return False
        late = self._clock.monotonic() - WAIT  # what takes longer to prepare must not keep the engine idle
        unbegun = [lease for lease in leases if lease.progress is None and lease.since > late]
        running = [lease for lease in leases if lease.progress and lease.progress.step < lease.progress.steps]
        nearly_free = self._engine.seconds_left <= seconds or not self._in_slots(unbegun + running)
        return nearly_free and not self._in_slots(unbegun)

    def _in_slots(self, leases: list[Lease]) -> int:
        """Return how many of these jobs take a slot: those that did not go ahead, or else one that is no preview."""
        return max(len(leases) - self._ahead(leases), int(any(not lease.preview for lease in leases)))

    def _ahead(self, leases: list[Lease]) -> int:
        """Return how many of these jobs went ahead and have room besides the slots."""
        return min(sum(lease.ahead for lease in leases), self._chosen.ahead)

    def _on_shutting_down(self, **_: object) -> None:
        """Hand back what does not fit into the grace period, and when that is over what still runs."""
        seconds = self._chosen.grace_seconds.total_seconds()
        grace = Timer(seconds, self._keeper.end_all, [ShuttingDown()])
        grace.daemon = True
        grace.start()
        self._engine.close(seconds)
        self._keeper.retire()


class _Consumer(Consumer):
    """Celery's worker, which leaves in peace: its own SIGHUP starts it anew at once, SIGQUIT drops what runs."""

    def install_platform_tweaks(self, worker: Any) -> None:
        super().install_platform_tweaks(worker)
        for other in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(other, signal.getsignal(signal.SIGTERM))


def _consume(app: Celery, name: str, threads: int) -> None:
    """Run Celery's worker; an end that was not asked for ends the process with its exit code."""
    consumer = _Consumer(
        app=app,
        hostname=f"celery@{name}",
        pool_cls=get_implementation("threads"),
        concurrency=threads,
        queues=queue.QUEUES,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    consumer.start()
    if consumer.exitcode:
        sys.exit(consumer.exitcode)


def _keep_our_logging(**_: object) -> None:
    """Celery configures logging unless somebody answers its signal; of each task we tell ourselves."""
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
