"""The 1min.ai facade: the Asset API, ``IMAGE_VARIATOR`` and its list of models."""

from datetime import timedelta
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, Request
from pydantic_core import to_json
from starlette.responses import RedirectResponse, Response

from api.auth import Caller, authenticate, check, presumed
from api.deletion import delete_asset
from api.dependencies import ServicesDep, services_of
from api.fields import decoded
from api.onemin_requests import parse_submission
from api.onemin_view import TYPE, ai_record, asset_answer, asset_links, catalog, instant
from api.repeats import once_of
from api.services import Services
from api.sources import find_asset, is_elsewhere, named_source
from api.submission import Accepted, Draft, outcome, submit
from api.uploads import Upload, form_with, receive, store
from shared.errors import NotFound, RecordsUnavailable, UnsupportedMediaType
from shared.idempotency import Once, fingerprint
from shared.ids import AssetKey
from shared.job_store import Report
from shared.keys import ApiKey
from shared.limits import Rate
from shared.teams import TeamUser, get_user

router = APIRouter(tags=["1min.ai"])


@router.post("/api/features")
async def create_feature(request: Request) -> Response:
    """Accept an ``IMAGE_VARIATOR`` job; wait for its end unless the body says ``"async": true``."""
    caller = presumed(request)
    if caller is None:
        return await vary(request, await authenticate(request))
    try:
        asked = await _asked(request, caller)
    except Exception:  # who may not ask is told that first, and whoever asks wrongly is counted too
        await authenticate(request)
        raise
    if is_elsewhere(services_of(request), asked.reference):  # what makes us fetch is counted before
        return await _vary(request, await authenticate(request), asked)
    return await _vary_at_once(request, caller, asked)


@router.post("/api/assets")
async def create_asset(request: Request, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Store the image in the multipart field ``asset``."""
    return await keep_form(request, caller, services)


@router.get("/api/assets/{key:path}")
async def read_asset(key: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Describe an image of the team's, uploaded or made, with fresh links to look at it and to keep it."""
    asset = await find_asset(services, caller, AssetKey(key))
    if asset is None:
        raise NotFound(f"there is no image {key!r}")
    return asset_links(asset, services.objects)


@router.delete("/api/assets/{key:path}")
async def remove_asset(key: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Delete an uploaded image; its key stays taken."""
    asset = await delete_asset(services, caller, AssetKey(key))
    return {"asset": {"key": asset.key, "deletedAt": asset.deleted_at and instant(asset.deleted_at)}}


@router.get("/models")
async def list_models(services: ServicesDep, feature: str = TYPE) -> dict[str, Any]:
    """List the models that have a feature, with prices, sizes and limits; needs no key."""
    return {"models": catalog(services.settings) if feature == TYPE else []}


def add_links(app: FastAPI, prefix: str) -> None:
    """Make ``GET /<key>`` lead to the image, for its owner's key or with a presigned link's query."""

    async def read_image(request: Request, name: str) -> RedirectResponse:
        """Lead to an image, for its owner's key or with a presigned link's query."""
        services, key = services_of(request), AssetKey(f"{prefix}images/{name}")
        if "X-Amz-Signature" in request.query_params:  # the storage itself checks it
            return RedirectResponse(f"{services.objects.location(key)}?{request.url.query}")
        if await find_asset(services, await authenticate(request), key) is None:
            raise NotFound(f"there is no image {key!r}")
        return RedirectResponse(services.objects.sign(key))

    app.add_api_route(f"/{prefix}images/{{name}}", read_image, methods=["GET"], tags=["1min.ai"])


async def keep_form(request: Request, caller: ApiKey, services: Services) -> dict[str, Any]:
    """Store the image in the form's field ``asset`` and describe it."""
    async with form_with(request, "asset") as (_, file):
        upload = await receive(services, file, "asset")
        return await keep(request, caller, services, upload, fingerprint("assets", upload.name, upload.digest))


async def keep(request: Request, caller: ApiKey, services: Services, upload: Upload, asked: str) -> dict[str, Any]:
    """Store an image and describe it; ``asked`` is the request's fingerprint."""
    asset = await store(services, caller, upload, once_of(request, caller, asked))
    return asset_answer(asset, upload.name, services.objects)


class Asked(NamedTuple):
    """What a body asks for."""

    draft: Draft
    reference: str  #: to the source
    once: Once | None


async def vary(request: Request, caller: ApiKey) -> Response:
    """Answer an ``IMAGE_VARIATOR`` body with its job's record, for a caller who may ask and was counted."""
    return await _vary(request, caller, await _asked(request, caller))


async def _asked(request: Request, caller: ApiKey) -> Asked:
    services, body = services_of(request), await json_body(request)
    wait = services.settings.api.wait_seconds
    draft, reference = parse_submission(body, request.state.request_id, wait, services.egress)
    return Asked(draft, reference, once_of(request, caller, fingerprint("features", body)))


async def _vary(request: Request, caller: ApiKey, asked: Asked) -> Response:
    services = services_of(request)
    source = named_source(services, caller, asked.reference, asked.once)
    job = await submit(services, caller, asked.draft, source, once=asked.once)
    return await _told(request, caller, job, asked.draft.wait)


async def _vary_at_once(request: Request, caller: ApiKey, asked: Asked) -> Response:
    """As :func:`_vary`, for a caller who might ask earlier; whether that holds is asked along with what else must be.

    The request is counted in the commit that makes its job, so that only one write is waited for.
    """
    services = services_of(request)
    rate = Rate(caller.id, services.settings.teams.requests_per_minute)
    source = named_source(services, caller, asked.reference, asked.once)
    first = (check(request), rate.look())
    try:
        job = await submit(services, caller, asked.draft, source, once=asked.once, first=first, rate=rate)
    except RecordsUnavailable:
        raise
    except Exception:
        await authenticate(request)
        raise
    if job.report is None:  # made earlier
        await authenticate(request)
    return await _told(request, caller, job, asked.draft.wait)


async def _told(request: Request, caller: ApiKey, job: Accepted, wait: timedelta | None) -> Response:
    """Answer with a job's record, as it is once the caller need not wait."""
    services = services_of(request)
    found, payer = await outcome(services, caller, job, wait)
    answer = ai_record(found, payer or await _payer(services, job, found), services.objects)
    return Response(to_json(answer), media_type="application/json")


async def _payer(services: Services, job: Accepted, found: Report) -> TeamUser:
    """Return a job's user with what is left at the time of a report, or else as the job's acceptance left it."""
    try:
        return await services.run(get_user(found.record.user_id))
    except RecordsUnavailable:
        if job.payer is None:
            raise
        return job.payer


async def json_body(request: Request) -> Any:
    """Return the decoded body.

    Raises:
        UnsupportedMediaType: If it is said to be something other than JSON.
        InvalidRequest: If it is not JSON.
    """
    sent = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if sent != "application/json" and not sent.endswith("+json"):
        raise UnsupportedMediaType(f"the body must be application/json, not {sent}")
    return decoded(await request.body(), "body")
