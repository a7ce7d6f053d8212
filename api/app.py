"""Puts the API together: servers, middleware, facades."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import batches, health, onemin, onemin_web, openai, openapi, pages, problems, results
from api.middleware import BodyLimit, RequestId
from api.services import connected
from shared.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the API as an ASGI application; it connects when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Connect and serve."""
        async with connected(settings) as app.state.services:
            yield

    app = FastAPIOffline(
        title="reduxq",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "."}],  # from where the document is
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
    )
    app.add_middleware(BodyLimit, limits=settings.api)
    app.add_middleware(RequestId)
    problems.add_handlers(app)
    app.add_route(
        "/api/features", onemin.create_feature, ["POST"], include_in_schema=False
    )  # FastAPI's own takes longer
    app.include_router(onemin.router)
    app.include_router(results.router)
    app.include_router(batches.router)
    onemin.add_links(app, settings.storage.prefix)
    app.include_router(onemin_web.router)
    app.include_router(openai.router)
    app.include_router(health.router)
    pages.add(app)
    openapi.describe(app.openapi(), settings.api.openai_models)
    return app
