"""What the API's routes work with, built once by the composition root."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.requests import Request

from api.waiting import Completions
from shared.clock import Clock
from shared.egress import Egress
from shared.ids import KeyId
from shared.job_store import JobStore
from shared.object_store import ObjectStore
from shared.programs import AsyncClient, Program, T, run_async
from shared.settings import Settings


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
    known_keys: dict[str, KeyId] = field(default_factory=dict)  #: for :func:`shared.limits.admit`

    async def run(self, program: Program[T]) -> T:
        """Run a store operation."""
        return await run_async(self.records, program)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call, such as boto3's, beside the event loop."""
        return await to_thread.run_sync(call)


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)  # FastAPI runs a plain function in a thread


ServicesDep = Annotated[Services, Depends(_services)]
