"""Waits for jobs to end, any number of callers on one connection."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

import redis.asyncio
import structlog

from shared.ids import JobId
from shared.job_store import COMPLETIONS
from shared.programs import Program, run_async

log = structlog.get_logger(__name__)

BLOCK: Final = timedelta(seconds=5)  #: how long one read waits; the client's socket timeout must be longer
PAUSE: Final = 0.5  #: seconds before the stream is read again when the server does not answer


class Completions:
    """Follows the stream of ended jobs and wakes whoever waits for one.

    Args:
        records: A client of its own, whose socket timeout is longer than :data:`BLOCK`.
    """

    def __init__(self, records: "redis.asyncio.Redis") -> None:
        self._records = records
        self._waiting: defaultdict[JobId, set[asyncio.Event]] = defaultdict(set)
        self._closing = False

    async def follow(self) -> None:
        """Read the stream for ever."""
        last = ""
        while True:
            try:
                if not last:  # at the start, and after a failure: a restarted server may count anew
                    last = await run_async(self._records, _newest_entry())
                    self._wake_all()
                entries = await run_async(self._records, _entries_after(last))
                for _, job_id in entries:
                    _wake(self._waiting.get(job_id, ()))
                last = entries[-1][0] if entries else last
            except Exception as error:  # noqa: BLE001  whatever it is, callers wait for this to go on
                log.warning("cannot follow completions", error=repr(error))
                last = ""
                await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Let every caller go with what there is: the process ends."""
        self._closing = True
        self._wake_all()

    async def wait(self, job_id: JobId, finished: Callable[[], Awaitable[bool]], limit: timedelta) -> None:
        """Return when the job has ended or the time runs out.

        Args:
            job_id: Which job.
            finished: Reads whether it has ended.
            limit: Longest wait.
        """
        with suppress(TimeoutError):
            async with self._listening(job_id) as woken, asyncio.timeout(limit.total_seconds()):
                while not (self._closing or await finished()):
                    await woken.wait()
                    woken.clear()

    @asynccontextmanager
    async def _listening(self, job_id: JobId) -> AsyncIterator[asyncio.Event]:
        woken = asyncio.Event()
        self._waiting[job_id].add(woken)
        try:
            yield woken
        finally:
            self._waiting[job_id].discard(woken)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            _wake(events)


def _wake(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()


def _newest_entry() -> Program[str]:
    entries = yield ("XREVRANGE", COMPLETIONS, "+", "-", "COUNT", 1)
    return str(entries[0][0]) if entries else "0-0"


def _entries_after(last: str) -> Program[list[tuple[str, JobId]]]:
    """Wait for entries and return each one's id and job."""
    block_ms = int(BLOCK.total_seconds() * 1000)
    answer = yield ("XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", COMPLETIONS, last)
    streams = answer.items() if isinstance(answer, dict) else answer or []
    return [(entry_id, JobId(fields["id"])) for _, entries in streams for entry_id, fields in entries]
