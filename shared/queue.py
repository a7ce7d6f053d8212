"""Celery as we use it: ids in two queues, no results, no redelivery."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis
from celery import Celery
from celery.events import EventDispatcher
from kombu import Producer
from kombu.exceptions import BatchPublishError, OperationalError  # type: ignore[attr-defined]
from redis.exceptions import RedisError

from shared.errors import Unavailable
from shared.ids import JobId

TASK: Final = "reduxq.vary"
QUEUE: Final = "gpu"
AHEAD: Final = "gpu.ahead"  #: jobs that a busy worker takes besides what it runs, because they go ahead of that
QUEUES: Final = (AHEAD, QUEUE)
CONFIGURATION: Final[dict[str, Any]] = {
    "task_default_queue": QUEUE,
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_send_sent_event": True,
    "worker_send_task_events": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        # A message that a worker took is gone from the broker: the record and the dispatcher bring a job back within
        # seconds, and kombu's own way ends the worker when the broker restarts under a running task.
        "ack_emulation": False,
        "priority_steps": [0],  # or four lists would be looked into for each queue
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
}
#: How the dispatcher asks, which has other things to do while the broker is away; seconds.
IMPATIENT: Final = {"socket_timeout": 5, "max_retries": 1, "interval_start": 0}


def make_celery(broker_url: str) -> Celery:
    """Return the Celery application that dispatcher and workers share."""
    app = Celery("reduxq", broker=broker_url, set_as_current=False)
    app.conf.update(CONFIGURATION)
    return app


class Broker:
    """The messages that make workers look at jobs, as the dispatcher sees them.

    Args:
        url: Of the broker.
    """

    def __init__(self, url: str) -> None:
        self._app = make_celery(url)
        self._app.conf.broker_transport_options = CONFIGURATION["broker_transport_options"] | IMPATIENT

    def publish(self, job_ids: Sequence[JobId], queue: str) -> None:
        """Send a message for each job; a task's id is its job's.

        Celery's own ``send_task`` would ask the broker once for every message and every event.

        Raises:
            Unavailable: If the broker does not take them. It may have some all the same, which does no harm.
        """
        with self._producer() as producer:
            sent = list[dict[str, Any]]()
            with producer.batch():  # type: ignore[attr-defined]
                for job_id in job_ids:
                    # Celery's own way to show them takes a fifth of the time.
                    shown = {"argsrepr": repr((job_id,)), "kwargsrepr": "{}", "create_sent_event": True}
                    message = self._app.amqp.create_task_message(job_id, TASK, (job_id,), **shown)
                    told = {"headers": message.headers, **message.properties}
                    producer.publish(message.body, exchange="", routing_key=queue, serializer="json", **told)
                    sent.append(message.sent_event)
            with self._events(producer) as events:  # the workers have theirs by now
                for event in sent:
                    events.send("task-sent", queue=queue, routing_key=queue, **event)
                events.flush()

    def report_failure(self, job_id: JobId, reason: str) -> None:
        """Tell monitors that a task failed whose worker can no longer say so.

        Raises:
            Unavailable: If the broker does not take it.
        """
        with self._producer() as producer, self._events(producer) as events:
            events.send("task-failed", uuid=job_id, exception=reason, traceback="")
            events.flush()

    def waiting(self, queues: Iterable[str] = QUEUES) -> set[JobId]:
        """Return the jobs whose message is in one of these queues still.

        Raises:
            Unavailable: If the broker does not answer.
        """
        with self._producer() as producer:
            client: redis.Redis = producer.channel.client  # type: ignore[union-attr]
            found: list[Any] = [client.lrange(queue, 0, -1) for queue in queues]
        return {job_id for messages in found for message in messages if (job_id := _job_of(message))}

    @contextmanager
    def _producer(self) -> Iterator[Producer]:
        with _translated_errors(), self._app.producer_pool.acquire(block=True) as producer:
            yield producer

    def _events(self, producer: Producer) -> EventDispatcher:
        """Return what sends events about tasks, as many as there are in one message."""
        together = {"buffer_group": {"task"}, "buffer_limit": math.inf, "buffer_while_offline": False}
        events: EventDispatcher = self._app.events.Dispatcher(channel=producer.channel, **together)
        return events


def _job_of(message: bytes) -> JobId | None:
    """Return whose message this is; None if it is none of ours."""
    try:
        return JobId(json.loads(message)["headers"]["id"])
    except (LookupError, TypeError, ValueError):
        return None


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for a broker that does not answer; every other error passes as it is."""
    try:
        yield
    except (BatchPublishError, OperationalError, RedisError) as error:
        raise Unavailable(f"the broker does not answer: {error}") from error
