"""Results on 1min.ai's wire: to read, wait for, watch, list, cancel, delete."""

import base64
import json
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Response
from fastapi.sse import EventSourceResponse
from pydantic import Field, TypeAdapter
from starlette.status import HTTP_204_NO_CONTENT

from api.auth import Caller
from api.deletion import delete_result
from api.dependencies import ServicesDep
from api.events import name_of, watch
from api.fields import PageSize, WaitSeconds
from api.onemin_view import STATUSES, ai_record
from api.services import Services
from api.submission import Accepted, outcome, report
from shared.errors import InvalidRequest, NotFound
from shared.ids import JobId
from shared.job_index import Cursor, team_scope
from shared.job_store import Report
from shared.jobs import JobRecord
from shared.programs import together
from shared.teams import get_user
from shared.transitions import cancel

router = APIRouter(prefix="/api/results", tags=["1min.ai"])

CURSOR: Final = TypeAdapter(tuple[Annotated[int, Field(ge=0, lt=2**53)], JobId])  #: as clients hold it, in base64
UNBUFFERED: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  #: asks proxies to pass events on at once


@router.get("")
async def list_results(
    caller: Caller,
    services: ServicesDep,
    status: Literal["PROCESSING", "SUCCESS", "FAILURE"] | None = None,
    cursor: str | None = None,
    limit: PageSize = 20,
) -> Response:
    """List the team's jobs, newest first; ``nextCursor`` as ``cursor`` leads on, null means there are no more."""
    chosen = [inside for inside, word in STATUSES.items() if status in {word, None}]
    after = _decoded(cursor) if cursor else None
    page = services.jobs.page(team_scope(caller.team_id), chosen, limit=limit, after=after)
    records, more = await services.run(page)
    return await _listed(services, records, more)


@router.get("/{uuid}")
async def read_result(uuid: str, caller: Caller, services: ServicesDep, wait: WaitSeconds = 0) -> dict[str, Any]:
    """Return a job's record, after so many seconds or at its end; an unknown one is null, as the original answers."""
    try:
        found = await report(services, caller, JobId(uuid))
        if wait and not found.record.finished:
            found, _ = await outcome(services, caller, Accepted(found.record.id), timedelta(seconds=wait))
    except NotFound:
        return {"aiRecord": None}
    return await _shown(services, found)


@router.delete("/{uuid}")
async def remove_result(uuid: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Delete a job's variations, cancel it if it has not ended, and return what is left of its record."""
    await delete_result(services, caller, JobId(uuid))
    return await read_result(uuid, caller, services)


@router.post("/{uuid}/cancel")
async def cancel_result(uuid: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Cancel a job and return its record; one that has ended stays as it is."""
    found = await report(services, caller, JobId(uuid))
    ended = services.jobs.update(found.record.id, partial(cancel, now=services.clock.now()))
    return await _shown(services, Report(await services.run(ended)))


@router.get("/{uuid}/events")
async def watch_result(
    uuid: str, caller: Caller, services: ServicesDep, last_event_id: Annotated[str, Header(alias="Last-Event-ID")] = ""
) -> Response:
    """Tell a job's progress as server-sent events until it ends; 204 means that the caller has seen the end.

    After five minutes the stream ends earlier. An EventSource then comes back by itself with the id of its last event,
    misses nothing, and is a request like any other: its key is checked again and it counts against the limit.
    """
    found = await report(services, caller, JobId(uuid))
    if found.record.finished and name_of(found) == last_event_id:
        return Response(status_code=HTTP_204_NO_CONTENT)
    return EventSourceResponse(watch(services, found.record.id, last_event_id), headers=UNBUFFERED)


async def _shown(services: Services, found: Report) -> dict[str, Any]:
    return ai_record(found, await services.run(get_user(found.record.user_id)), services.objects)


async def _listed(services: Services, records: list[JobRecord], more: Cursor | None) -> Response:
    """Answer with many records, made ready in a thread: signing 400 links takes 0.2 s."""
    going_on = [record.id for record in records if not record.finished]
    reports = await services.run(together([services.jobs.report(job_id) for job_id in going_on]))
    newest = dict(zip(going_on, reports, strict=True))
    user_ids = list({record.user_id for record in records})
    users = dict(zip(user_ids, await services.run(together([get_user(each) for each in user_ids])), strict=True))

    def body() -> str:
        found = [newest.get(record.id) or Report(record) for record in records]
        views = [ai_record(each, users[each.record.user_id], services.objects)["aiRecord"] for each in found]
        return json.dumps({"aiRecords": views, "nextCursor": _encoded(more) if more else None})

    return Response(await services.in_thread(body), media_type="application/json")


def _encoded(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode()


def _decoded(text: str) -> Cursor:
    try:
        return Cursor(*CURSOR.validate_json(base64.urlsafe_b64decode(text), strict=True))
    except ValueError as error:
        raise InvalidRequest.of("cursor", "must be a nextCursor of this list", text) from error
