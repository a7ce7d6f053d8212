"""Whether the process serves, and whether what it stands on does."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from api.dependencies import services_of
from api.services import Services
from shared import dispatch_store
from shared.connections import connect_async
from shared.programs import Program, together
from shared.startup import require_durable

log = structlog.get_logger(__name__)

PATIENCE: Final = 1.5  #: seconds; the answer is promised within 2
FRESH: Final = 1.0  #: seconds for which a look serves all who ask: anybody may, as often as they like

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def health() -> JSONResponse:
    """Say that this process serves, whatever the servers behind it do."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """Say which parts answer; 503 when the records server, the storage or the broker does not."""
    looks = {name: _looking(services_of(request), name) for name in LOOKS}
    await asyncio.wait(looks.values(), timeout=PATIENCE)
    found = {name: look.result() if look.done() else None for name, look in looks.items()}
    parts = {name: told is not None for name, told in found.items()}
    told = {**parts, "dispatcher": False, "workers": 0, **(found["records"] or {})}
    if all(parts.values()):
        return JSONResponse({"status": "ok", **told})
    return JSONResponse({"status": "unavailable", **told}, HTTPStatus.SERVICE_UNAVAILABLE)


def _looking(services: Services, name: str) -> "asyncio.Task[dict[str, Any] | None]":
    """Return the look at a part that is under way or was made just now, or else begin one."""
    looks = services.looks
    if name not in looks:
        looks[name] = asyncio.create_task(_look(services, name))
        loop = asyncio.get_running_loop()
        looks[name].add_done_callback(lambda _: loop.call_later(FRESH, looks.pop, name))
    return looks[name]


async def _look(services: Services, name: str) -> dict[str, Any] | None:
    """Return what a part tells, if anything; None if it cannot serve."""
    try:
        return await LOOKS[name](services) or {}
    except Exception as error:  # noqa: BLE001  whatever it is, the part cannot serve
        log.warning("not ready", part=name, error=repr(error))
        return None


async def _records(services: Services) -> dict[str, Any]:
    durable = require_durable(services.settings.records.durability)
    asked: list[Program[Any]] = [dispatch_store.figures(), durable]
    figures, _ = await services.run(together(asked))
    return {"dispatcher": figures.led, "workers": figures.workers}


async def _broker(services: Services) -> None:
    async with connect_async(services.settings.broker.url.get_secret_value()) as broker:
        await broker.ping()


LOOKS: Final[dict[str, Callable[[Services], Awaitable[dict[str, Any] | None]]]] = {
    "records": _records,
    "storage": lambda services: services.in_thread(services.objects.require_writable),
    "broker": _broker,
}
