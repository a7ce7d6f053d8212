"""How any number of callers wait for jobs and watch them, on one connection each."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

import redis.asyncio
import structlog
from pydantic import ValidationError

from shared.completions import entries_after, newest_entry
from shared.ids import JobId
from shared.job_store import JobStore, Report
from shared.programs import Program, run_async, together

log = structlog.get_logger(__name__)

PAUSE: Final = 0.5  #: seconds before the stream is read again when the server does not answer
AT_ONCE: Final = 50  #: jobs read in one go: 3 ms of the event loop


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
                if not last:  # at the start, and after a failure: a restarted server may count anew
                    last = await run_async(self._records, newest_entry())
                    self._wake_all()
                entries = await run_async(self._records, entries_after(last))
                for _, job_id in entries:
                    _wake(self._waiting.get(job_id, ()))
                last = entries[-1][0] if entries else last
            except Exception as error:  # noqa: BLE001  whatever it is, callers wait for this to go on
                log.warning("cannot follow completions", error=repr(error))
                last = ""
                await asyncio.sleep(PAUSE)

    def close(self) -> None:
        """Let every caller go with what there is: the process ends."""
        self.closing = True
        self._wake_all()

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

    def _wake_all(self) -> None:
        for events in self._waiting.values():
            _wake(events)


class Reports:
    """Reads jobs for their watchers: what is asked for at the same moment is read in one go.

    Args:
        records: A client.
        jobs: The programs.
    """

    def __init__(self, records: "redis.asyncio.Redis", jobs: JobStore) -> None:
        self._records = records
        self._jobs = jobs
        self._asked: set[JobId] = set()
        self._reading: asyncio.Task[dict[JobId, Report | None]] | None = None

    async def get(self, job_id: JobId) -> Report | None:
        """Return a job; None if there is none, or it cannot be read.

        Raises:
            RecordsUnavailable: If the records server does not answer.
        """
        if not self._asked or self._reading is None:
            self._reading = asyncio.create_task(self._read())
        self._asked.add(job_id)
        return (await asyncio.shield(self._reading))[job_id]

    async def _read(self) -> dict[JobId, Report | None]:
        asked, self._asked = list(self._asked), set()
        found: dict[JobId, Report | None] = {}
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            reports = await run_async(self._records, together([self._report(job_id) for job_id in part]))
            found |= zip(part, reports, strict=True)
        return found

    def _report(self, job_id: JobId) -> Program[Report | None]:
        """As the store's, but one record that cannot be read must not hide all others."""
        try:
            return (yield from self._jobs.report(job_id))
        except ValidationError:
            log.exception("a record cannot be read", job=job_id)
            return None


def _wake(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()
