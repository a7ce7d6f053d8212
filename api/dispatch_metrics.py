"""What the dispatcher tells Prometheus, and those who scale the workers.

Events are told by the dispatcher that led when they happened, so their sum is right. The state is read at each scrape,
by every dispatcher alike, so its maximum is.
"""

from collections.abc import Iterator
from typing import Any, Final

import redis
from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared import backlog, dispatch_store
from shared.backlog import Backlog
from shared.connections import run
from shared.dispatch_store import Figures
from shared.errors import JobError, ReduxqError
from shared.jobs import JobRecord, JobStatus
from shared.programs import Program, together
from shared.settings import Settings
from shared.startup import require_durable

BUCKETS: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)  #: seconds
FINISHED: Final = Counter("reduxq_jobs_finished", "Jobs that ended; the code says why, if not well", ["status", "code"])
QUEUED: Final = Histogram("reduxq_job_queue_seconds", "Acceptance to the start of the last attempt", buckets=BUCKETS)
RAN: Final = Histogram("reduxq_job_run_seconds", "Start of the last attempt to the job's end", buckets=BUCKETS)
CHARGED: Final = Counter("reduxq_credits_charged", "Credits that ended jobs used")
EXPIRED: Final = Counter("reduxq_leases_expired", "Jobs that were taken back from a worker that fell silent")
REPUBLISHED: Final = Counter("reduxq_messages_republished", "Messages that were lost and sent again")

for _error in JobError.__subclasses__():  # a rate needs the zero before the first
    FINISHED.labels(JobStatus.CANCELED if _error.code == "CANCELED" else JobStatus.FAILED, _error.code)


def ended(record: JobRecord) -> None:
    """Note a job that ended."""
    if record.finished_at:
        FINISHED.labels(record.status, record.failure.code if record.failure else "").inc()
        CHARGED.inc(record.charged)
        QUEUED.observe(((record.started_at or record.finished_at) - record.created_at).total_seconds())
        if record.started_at:
            RAN.observe((record.finished_at - record.started_at).total_seconds())


class Standing(Collector):
    """Reads the state whenever it is asked for, by several threads at a time.

    Args:
        records: Where it stands.
        settings: Say how long jobs may wait, and for how many workers there is room.
    """

    def __init__(self, records: redis.Redis, settings: Settings) -> None:
        self._records = records
        self._settings = settings

    def describe(self) -> list[Metric]:
        return []  # without this, registering would collect

    def collect(self) -> Iterator[Metric]:
        """Return what is known; whether the records server is durable always is."""
        figures, told = self._look()
        what = "1: the records server answers and cannot forget what was accepted"
        yield GaugeMetricFamily("reduxq_records_durable", what, figures is not None)
        if figures:
            jobs = GaugeMetricFamily("reduxq_jobs", "Jobs that have not ended, and those set aside", labels=["status"])
            for status, count in figures.jobs.items():
                jobs.add_metric([status], count)
            yield jobs
            yield GaugeMetricFamily("reduxq_oldest_queued_seconds", "Since its acceptance; 0: none", figures.oldest)
            yield GaugeMetricFamily("reduxq_dispatcher_leads", "1: one of the dispatchers leads", figures.led)
            yield GaugeMetricFamily("reduxq_workers", "Workers that take jobs", figures.workers)
            used = "Share of the memory it may have that the records server uses; 0: it has no limit"
            yield GaugeMetricFamily("reduxq_records_memory_ratio", used, figures.full)
        if told:
            yield GaugeMetricFamily("reduxq_workers_desired", "Workers that are needed", self._desired(told))

    def scale(self) -> dict[str, int] | None:
        """Return how many workers are needed; None: nobody knows."""
        told = self._look()[1]
        return {"desiredWorkers": self._desired(told)} if told else None

    def _look(self) -> tuple[Figures | None, Backlog | None]:
        durable = require_durable(self._settings.records.durability)
        asked: list[Program[Any]] = [dispatch_store.figures(), backlog.get(), durable]
        try:
            figures, told, _ = run(self._records, together(asked))
        except ReduxqError:
            return None, None
        return figures, told

    def _desired(self, told: Backlog) -> int:
        rules = self._settings.dispatcher
        return told.desired_workers(rules.target_wait_seconds, rules.max_workers)
