"""What the API and the feeder of batches work with, built once by the composition roots."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from anyio import CapacityLimiter, to_thread

from api.waiting import Completions
from shared.clock import Clock
from shared.completions import BLOCK
from shared.connections import AsyncClient, connect_async, connect_shared, run_async
from shared.egress import Egress
from shared.job_store import JobStore
from shared.keys import ApiKey
from shared.object_store import ObjectStore
from shared.programs import Program, T
from shared.settings import Settings

FETCHES: Final = 8  #: images fetched from elsewhere at the same time; the storage keeps 32 of anyio's 40 threads


@dataclass(frozen=True)
class Services:
    """Servers and settings."""

    settings: Settings
    records: AsyncClient
    jobs: JobStore
    objects: ObjectStore
    completions: Completions
    egress: Egress
    clock: Clock
    decoders: CapacityLimiter  #: images decoded at the same time
    fetchers: CapacityLimiter  #: images fetched from elsewhere and not yet checked, at the same time
    looks: "dict[str, asyncio.Task[dict[str, Any] | None]]" = field(default_factory=dict)  #: for :mod:`api.health`
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  #: begun by :meth:`beside`, to hold on to them
    known_keys: dict[str, ApiKey] = field(default_factory=dict)  #: for :func:`shared.limits.admit`

    async def run(self, program: Program[T]) -> T:
        """Run a store operation."""
        return await run_async(self.records, program)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call, such as boto3's, beside the event loop."""
        return await to_thread.run_sync(call)

    async def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""
        await asyncio.sleep(seconds)

    async def gather(self, calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T | BaseException]:
        """Make calls side by side; return what each returns or raises."""
        return await asyncio.gather(*(call() for call in calls), return_exceptions=True)

    def beside(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a call that nobody waits for."""
        task = asyncio.create_task(call())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Services]:
    """Give what the settings name, and follow completions meanwhile."""
    url = settings.records.url.get_secret_value()
    async with connect_shared(url) as records, connect_async(url, timeout=2 * BLOCK) as following:
        completions = Completions(following)
        services = Services(
            settings=settings,
            records=records,
            jobs=JobStore(settings.jobs.lease_seconds),
            objects=ObjectStore(settings.storage),
            completions=completions,
            egress=Egress(settings.egress),
            clock=Clock(),
            decoders=CapacityLimiter(settings.api.decoders),
            fetchers=CapacityLimiter(FETCHES),
        )
        services.beside(completions.follow)
        yield services
        for task in services.tasks:
            task.cancel()
        await asyncio.gather(*services.tasks, return_exceptions=True)
