"""The OpenAI facade, as DeepInfra speaks it: ``images/variations`` on three paths."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from api.auth import Caller
from api.dependencies import ServicesDep
from api.openai_requests import parse_form
from api.openai_view import images_answer, require_success
from api.repeats import once_of
from api.sources import stored_source
from api.submission import Draft, outcome, submit
from api.uploads import form_with, receive
from shared.idempotency import fingerprint

router = APIRouter(tags=["OpenAI"])
PREFIXES: Final = ("/v1/openai", "/v1", "/api/v1")


async def create_variation(request: Request, caller: Caller, services: ServicesDep) -> JSONResponse:
    """Make 1 to 4 variations of an image and wait for them.

    When they take longer than the service waits, the answer is 503, and the same request sent again, as OpenAI's SDKs
    do by themselves, waits for the same job.
    """
    async with form_with(request, "image") as (form, image):
        asked, model = parse_form(form, services.settings.api.openai_models)
        upload = await receive(services, image, "image")
        once = once_of(request, caller, fingerprint("variations", asked.model_dump(mode="json"), upload.digest))
        draft = Draft(
            parameters=asked.parameters,
            echo=asked.echo(model, request.state.request_id),
            wait=services.settings.api.openai_wait_seconds,
        )
        source = stored_source(services, caller, upload, once)
        job = await submit(services, caller, draft, source, once=once)
    record = (await outcome(services, caller, job, draft.wait))[0].record
    require_success(record)
    answer = await images_answer(services, record, asked.response_format)
    return JSONResponse(answer, headers={"x-job-id": record.id})


async def list_names(_: Caller, services: ServicesDep) -> dict[str, Any]:
    """List the names of the model."""
    owner = {"object": "model", "created": 0, "owned_by": "black-forest-labs"}
    return {"object": "list", "data": [{"id": name, **owner} for name in services.settings.api.openai_models]}


for prefix in PREFIXES:
    router.add_api_route(f"{prefix}/images/variations", create_variation, methods=["POST"])
    router.add_api_route(f"{prefix}/models", list_names, methods=["GET"])
