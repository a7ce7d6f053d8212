"""A load generator that costs little: callers on raw sockets, each of which asks again when it is answered."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Load:
    """What so many callers are to ask of servers, who share them, and how it went."""

    urls: list[str]
    head: str  #: the request's first line and headers, each with its line end, without those of body and host
    body: bytes
    callers: int
    seconds: float
    latencies: list[float] = field(default_factory=list)  #: seconds from request to whole answer
    refused: list[bytes] = field(default_factory=list)  #: answers that were no success
    until: float = 0  #: of the monotonic clock


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, next_head: Callable[[], str], done: asyncio.Future[None]) -> None:
        self._load = load
        self._next_head = next_head
        self._done = done
        self._answer = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._answer, self._missing = b"", 0
        self._began = time.perf_counter()
        self._transport.write(self._next_head().encode() + self._load.body)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._missing and (end := self._answer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._answer, 0, end + 2)
            assert length, self._answer
            self._missing = end + 4 + int(length[1])
        if self._missing and len(self._answer) >= self._missing:
            now = time.perf_counter()
            self._load.latencies.append(now - self._began)
            if not self._answer.startswith(b"HTTP/1.1 2"):
                self._load.refused.append(self._answer)
            if now < self._load.until:
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error or time.perf_counter() < self._load.until:
            self._done.set_exception(error or ConnectionError("the server hung up"))
        else:
            self._done.set_result(None)


async def _drive(load: Load) -> None:
    addresses = [urlsplit(url) for url in load.urls]
    number = 0
    fixed = f"Host: {addresses[0].netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(load.body)}\r\n\r\n"

    def next_head() -> str:
        nonlocal number
        number += 1
        return load.head.replace("{number}", str(number)) + fixed

    loop = asyncio.get_running_loop()
    load.until = time.perf_counter() + load.seconds
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(load.callers)]
    for end, address in zip(ends, cycle(addresses)):
        await loop.create_connection(partial(Caller, load, next_head, end), str(address.hostname), address.port or 80)
    await asyncio.gather(*ends)


def drive(load: Load) -> Load:
    """Let the callers ask for so long, to the last answer, and return how it went."""
    uvloop.run(_drive(load))
    return load
