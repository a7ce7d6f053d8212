"""Whether the service can serve."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from api.services import services_of
from shared import dispatch_store
from shared.errors import ReduxqError

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def health(request: Request) -> JSONResponse:
    """Say which parts answer; 503 when the records server or the storage does not."""
    services = services_of(request)
    state: dict[str, object] = {"records": False, "storage": False, "dispatcher": False, "workers": 0}
    try:
        state["dispatcher"] = await services.run(dispatch_store.leader()) is not None
        state["workers"] = len(await services.run(dispatch_store.living_workers()))
        state["records"] = True
        await services.in_thread(services.objects.require_bucket)
        state["storage"] = True
    except ReduxqError as error:
        return JSONResponse({"status": error.summary, **state}, HTTPStatus.SERVICE_UNAVAILABLE)
    return JSONResponse({"status": "ok", **state})
