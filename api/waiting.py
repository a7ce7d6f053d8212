"""Waits for jobs to end, any number of callers on one connection."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import redis.asyncio
import structlog

from shared.completions import PAUSE, endings_after
from shared.connections import run_async
from shared.ids import JobId

log = structlog.get_logger(__name__)


class Completions:
    """Follows the stream of ended jobs and wakes whoever waits for one.

    Args:
        records: A client of its own, whose socket timeout is longer than :data:`shared.completions.BLOCK`.
    """

    def __init__(self, records: "redis.asyncio.Redis") -> None:
        self._records = records
        self._waiting: defaultdict[JobId, set[asyncio.Event]] = defaultdict(set)
        self.closing = False  #: the process ends

    async def follow(self) -> None:
        """Read the stream for ever."""
        last = ""
        while True:
            try:
                missed = not last
                last, jobs = await run_async(self._records, endings_after(last))
                self._wake(self._waiting if missed else jobs)
            except Exception as error:  # noqa: BLE001  whatever it is, callers wait for this to go on
                log.warning("cannot follow completions", error=repr(error))
                last = ""
                await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Let every caller go with what there is: the process ends."""
        self.closing = True
        self._wake(self._waiting)

    async def wait(self, job_id: JobId, finished: Callable[[], Awaitable[bool]], limit: timedelta) -> None:
        """Return when the job has ended or the time runs out.

        Args:
            job_id: Which job.
            finished: Reads whether it has ended.
            limit: Longest wait.
        """
        with suppress(TimeoutError):
            async with self.listening(job_id) as woken, asyncio.timeout(limit.total_seconds()):
                while not (self.closing or await finished()):
                    await woken.wait()
                    woken.clear()

    @asynccontextmanager
    async def listening(self, job_id: JobId) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set when the job has ended, and when the caller had better look for itself."""
        woken = asyncio.Event()
        self._waiting[job_id].add(woken)
        try:
            yield woken
        finally:
            self._waiting[job_id].discard(woken)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _wake(self, jobs: Iterable[JobId]) -> None:
        for job_id in jobs:
            for event in self._waiting.get(job_id, ()):
                event.set()
