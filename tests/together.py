"""What runs at the same time: programs, as the requests of many clients do, and work beside a test."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from shared.connections import run_async
from shared.programs import Program
from tests.memory import connect_async


def run_together(url: str, programs: Iterable[Program[Any]]) -> list[Any]:
    """Return each program's result, or the exception that it raised."""

    async def run_all() -> list[Any]:
        async with connect_async(url) as client:
            return await asyncio.gather(*(run_async(client, each) for each in programs), return_exceptions=True)

    return asyncio.run(run_all())


@contextmanager
def meanwhile(work: Callable[[Event], object]) -> Iterator[None]:
    """Do this in a thread for the time of the block; the event tells it to stop."""
    stop = Event()
    thread = Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
