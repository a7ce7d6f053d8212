"""When the worker takes a message: so late that no job waits here while another worker idles, and no later."""

from collections.abc import Callable
from typing import Any, Final

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from kombu.asynchronous import Hub

LOOK: Final = 0.1  #: seconds between two looks at whether the gate opened


def install(app: Celery, takes: Callable[[int], bool]) -> None:
    """Make the application's worker ask ``takes``, with the number of messages it has, before it takes another."""

    class Gate(bootsteps.StartStopStep):
        """Narrows what :class:`Tasks` installed there for ``worker_disable_prefetch``, anew for each connection."""

        requires = (Tasks,)

        def start(self, parent: Any) -> None:
            qos = parent.task_consumer.channel.qos
            qos.restore_at_shutdown = False  # records bring jobs back; kombu leaves files of what it cannot restore
            celery_takes = qos.can_consume
            qos.can_consume = lambda: celery_takes() and takes(len(state.reserved_requests))

        def register_with_event_loop(self, _: Any, hub: Hub) -> None:
            hub.call_repeatedly(LOOK, lambda: None)  # the loop asks whenever it turns

    app.steps["consumer"].add(Gate)
