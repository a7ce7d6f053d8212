"""Puts the API together: servers, middleware, facades."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import health, onemin, onemin_web, openai, openapi, problems, results
from api.middleware import BodyLimit, RequestId
from api.services import Services
from api.waiting import Completions
from shared.clock import Clock
from shared.completions import BLOCK
from shared.egress import Egress
from shared.job_store import JobStore
from shared.object_store import ObjectStore
from shared.programs import connect_async, connect_shared
from shared.settings import Settings

FETCHES: Final = 8  #: images fetched from elsewhere at the same time; the storage keeps 32 of anyio's 40 threads


def create_app(settings: Settings) -> FastAPI:
    """Return the API as an ASGI application; it connects when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Connect, serve, and stop following completions."""
        url = settings.records.url.get_secret_value()
        async with connect_shared(url) as records, connect_async(url, timeout=2 * BLOCK) as following:
            completions = Completions(following)
            app.state.services = Services(
                settings=settings,
                records=records,
                jobs=JobStore(settings.jobs.lease_seconds),
                objects=ObjectStore(settings.storage),
                completions=completions,
                egress=Egress(settings.egress),
                clock=Clock(),
                decoders=CapacityLimiter(os.cpu_count() or 1),
                fetchers=CapacityLimiter(FETCHES),
            )
            follower = asyncio.create_task(completions.follow())
            yield
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower

    app = FastAPIOffline(
        title="reduxq",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.add_middleware(BodyLimit, max_upload_bytes=settings.api.max_upload_bytes)
    app.add_middleware(RequestId)
    problems.add_handlers(app)
    app.include_router(onemin.router)
    app.include_router(results.router)
    onemin.add_links(app, settings.storage.prefix)
    app.include_router(onemin_web.router)
    app.include_router(openai.router)
    app.include_router(health.router)
    openapi.describe(app.openapi(), settings.api.openai_models)
    return app
