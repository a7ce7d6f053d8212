"""The 1min.ai facade: the Asset API, ``IMAGE_VARIATOR`` and its results."""

import json
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic_core import from_json
from starlette.datastructures import UploadFile

from api.auth import authenticate
from api.onemin_requests import parse_submission
from api.onemin_view import ai_record, asset_answer
from api.services import Services, services_of
from api.submission import report, submit
from api.uploads import store_upload
from shared.errors import InvalidRequest, NotFound, RecordsUnavailable
from shared.ids import JobId
from shared.keys import ApiKey
from shared.teams import get_user

router = APIRouter(prefix="/api", tags=["1min.ai"])
Caller = Annotated[ApiKey, Depends(authenticate)]
Tools = Annotated[Services, Depends(services_of)]
MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["asset"],
                    "properties": {"asset": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("/assets", openapi_extra=MULTIPART)
async def create_asset(request: Request, caller: Caller, services: Tools) -> dict[str, Any]:
    """Store the image in the multipart field ``asset``."""
    async with request.form(max_files=1) as form:
        file = form.get("asset")
        if not isinstance(file, UploadFile):
            raise InvalidRequest("asset: is required and missing; send one image as a multipart file field 'asset'")
        return asset_answer(await store_upload(services, caller, file), services.objects)


@router.post("/features")
async def create_feature(request: Request, caller: Caller, services: Tools) -> dict[str, Any]:
    """Accept an ``IMAGE_VARIATOR`` job; wait for its end unless the body says ``"async": true``."""
    draft = parse_submission(await _json(request), request.state.request_id)
    user = await services.run(get_user(caller.user_id))
    found = await submit(services, caller, draft)
    with suppress(RecordsUnavailable):
        user = await services.run(get_user(caller.user_id))  # what the job cost is counted by now
    return ai_record(found, user, services.objects)


@router.get("/results/{uuid}")
async def read_result(uuid: str, caller: Caller, services: Tools) -> dict[str, Any]:
    """Return a job's record; an unknown one is null, as the original answers."""
    try:
        found = await report(services, caller, JobId(uuid))
    except NotFound:
        return {"aiRecord": None}
    return ai_record(found, await services.run(get_user(found.record.user_id)), services.objects)


async def _json(request: Request) -> Any:
    body = await request.body()
    try:
        decoded = from_json(body, allow_inf_nan=False)
        json.dumps(decoded, allow_nan=False)  # 1e999 is read as infinity and could not be echoed
    except ValueError as error:
        raise InvalidRequest(f"body: is not JSON: {error}") from error
    return decoded
