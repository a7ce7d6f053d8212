"""Celery as we use it: one queue of ids, no results, no redelivery."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.errors import Unavailable
from shared.ids import JobId

TASK: Final = "reduxq.vary"
QUEUE: Final = "gpu"
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
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
}


def make_celery(broker_url: str) -> Celery:
    """Return the Celery application that dispatcher and workers share."""
    app = Celery("reduxq", broker=broker_url, set_as_current=False)
    app.conf.update(CONFIGURATION)
    return app


def publish(app: Celery, job_id: JobId) -> None:
    """Send the message that makes a worker look at a job; the task's id is the job's.

    Raises:
        Unavailable: If the broker does not take it. It may have it all the same, which does no harm.
    """
    with _translated_errors():
        app.send_task(TASK, args=(job_id,), task_id=job_id, queue=QUEUE, retry=False)


def report_failure(app: Celery, job_id: JobId, reason: str) -> None:
    """Tell monitors that a task failed whose worker can no longer say so.

    Raises:
        Unavailable: If the broker does not take it.
    """
    with _translated_errors(), app.events.default_dispatcher() as events:
        events.send("task-failed", uuid=job_id, exception=reason, traceback="")


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for a broker that does not answer; every other error passes as it is."""
    try:
        yield
    except (OperationalError, RedisError) as error:
        raise Unavailable(f"the broker does not answer: {error}") from error
