"""Stand-ins, in memory, for the servers we use. They keep the promises that tests/contract holds the real ones to."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import redis
import redis.asyncio

from shared import connections
from shared.clock import Clock
from tests.memory.clients import AsyncMemoryRedis, MemoryRedis
from tests.memory.server import MemoryServer

SERVERS: dict[str, "SkippingServer"] = {}  #: by URL


class SkippingClock(Clock):
    """The machine's clock, ahead by the time that was skipped."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self._ahead

    def skip(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


class SkippingServer(MemoryServer):
    """A server in memory that need not be waited for."""

    clock: SkippingClock

    def __init__(self) -> None:
        super().__init__(SkippingClock())


@contextmanager
def server() -> Iterator[str]:
    """Give the URL of a fresh server in memory, known to this process alone."""
    made = SkippingServer()
    url = f"memory:{id(made)}"
    SERVERS[url] = made
    try:
        yield url
    finally:
        del SERVERS[url]


def connect(url: str) -> redis.Redis:
    """Return a client of a server in memory, or of a real one."""
    return MemoryRedis(SERVERS[url].execute) if url in SERVERS else connections.connect(url)


def connect_async(url: str) -> "redis.asyncio.Redis":
    """As :func:`connect`, for an event loop."""
    return AsyncMemoryRedis(SERVERS[url].execute) if url in SERVERS else connections.connect_async(url)
