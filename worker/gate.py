"""When the worker takes a message: so late that no job waits here while another worker idles, and no later."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty
from typing import Any, Final

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from kombu.asynchronous import Hub

LOOK: Final = 0.02  #: seconds between two looks at which queues are open, and how long the broker is asked in one go
TOLD: Final = 0.2  #: seconds in which events for monitors are gathered: to send one takes as long as to take a job
Opened = Callable[[int], Sequence[str]]


class OpenQueues:
    """Names queues whenever kombu asks the broker: so it asks for nothing that would not be taken.

    It waits for a message only with all queues open. An idle server ends a wait of :data:`LOOK` up to 0.1 s late, and
    until then a worker that has become free would hear of nothing else.

    Args:
        channel: Kombu's.
        opened: Returns the open queues, the first to look at first, given the number of messages that the worker has.
    """

    def __init__(self, channel: Any, opened: Opened) -> None:
        self._channel = channel
        self._opened = opened
        self._consumed: list[str] = []

    def update(self, queues: Iterable[str]) -> None:
        self._consumed = list(queues)

    def consume(self, _: int) -> list[str]:
        queues = [queue for queue in self._opened(len(state.reserved_requests)) if queue in self._consumed]
        if len(queues) == len(self._consumed):
            return queues
        for queue in queues:
            with suppress(Empty):
                self._channel.connection._deliver(self._channel._get(queue), queue)  # noqa: SLF001
        return []

    def rotate(self, _: str) -> None:
        """Stay in order."""


def install(app: Celery, opened: Opened) -> None:
    """Make the application's worker take messages of open queues alone, as :class:`OpenQueues` says."""

    class Gate(bootsteps.StartStopStep):
        """Takes its place in each new connection."""

        requires = (Tasks,)

        def start(self, parent: Any) -> None:
            channel = parent.task_consumer.channel
            # The transport option for this shows itself in Celery's statistics, which are JSON and cannot hold it.
            channel._queue_cycle = OpenQueues(channel, opened)  # noqa: SLF001
            channel.qos.restore_at_shutdown = False  # records bring jobs back; kombu leaves files of what it cannot

        def register_with_event_loop(self, parent: Any, hub: Hub) -> None:
            hub.call_repeatedly(LOOK, lambda: None)  # the loop asks whenever it turns
            parent.event_dispatcher.on_send_buffered = None
            hub.call_repeatedly(TOLD, parent.event_dispatcher.flush)

        def stop(self, parent: Any) -> None:
            if events := parent.event_dispatcher:
                events.on_send_buffered = parent.on_send_event_buffered  # what ends from now on is told as it comes
                events.flush()

    app.conf.broker_transport_options = app.conf.broker_transport_options | {"polling_interval": LOOK}
    app.steps["consumer"].add(Gate)
