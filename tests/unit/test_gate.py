"""Which queues a worker waits at, and which it only looks into."""

import json
from collections.abc import Sequence
from queue import Empty
from typing import Any

import pytest

from shared.queue import AHEAD, QUEUES
from worker.gate import OpenQueues


class Channel:
    """Kombu's, as far as a look needs it."""

    def __init__(self) -> None:
        self.connection = self
        self.there: list[str] = []
        self.looks: list[str] = []
        self.delivered: list[tuple[Any, str]] = []

    def _get(self, queue: str) -> Any:
        self.looks.append(queue)
        if not self.there:
            raise Empty
        return json.loads(self.there.pop())

    def _deliver(self, message: Any, queue: str) -> None:
        self.delivered.append((message, queue))


def opened(channel: Channel, *queues: str) -> Sequence[str]:
    gate = OpenQueues(channel, lambda _: queues)
    gate.update(QUEUES)
    return gate.consume(2)


def test_a_worker_waits_only_where_every_queue_is_open() -> None:
    channel = Channel()
    assert opened(channel, *QUEUES) == list(QUEUES)
    assert opened(channel) == []
    assert channel.looks == []


@pytest.mark.parametrize("there", [[], ['"message"']])
def test_a_look_for_what_goes_ahead_takes_what_is_there_and_does_not_wait(there: list[str]) -> None:
    channel = Channel()
    channel.there = list(there)
    assert opened(channel, AHEAD) == []
    assert channel.looks == [AHEAD]
    assert channel.delivered == [("message", AHEAD)] * len(there)
