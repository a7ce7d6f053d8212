"""The routes of 1min.ai's web application, which PyPI's client ``1minai-webapi`` speaks to."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from api.auth import Caller
from api.dependencies import ServicesDep
from api.onemin import json_body, keep, keep_form, vary
from api.sources import fetch
from shared.errors import InvalidRequest, NotFound
from shared.idempotency import fingerprint
from shared.teams import Team, get_team


async def require_own_team(team: str, caller: Caller) -> None:
    """Go on if the team in the path is the caller's.

    Raises:
        NotFound: If it is not; another team is told as one that does not exist.
    """
    if team != caller.team_id:
        raise NotFound(f"there is no team {team}")


router = APIRouter(tags=["1min.ai web application"])
teams = APIRouter(prefix="/teams/{team}", dependencies=[Depends(require_own_team)])


@router.get("/users")
async def read_user(caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Return the key's user with its team."""
    team = await services.run(get_team(caller.team_id))
    return {"user": {"uuid": caller.user_id, "email": "", "name": caller.user_name, "teams": [{"team": _shown(team)}]}}


@teams.get("/credits")
async def read_credits(caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Return what the team has left."""
    return {"credit": (await services.run(get_team(caller.team_id))).credit}


@teams.post("/assets")
async def create_asset(request: Request, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Store the image in the multipart field ``asset``, or the one that ``fileUrl`` in a JSON body leads to."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return await keep_form(request, caller, services)
    body = await json_body(request)
    url = body.get("fileUrl") if isinstance(body, dict) else None
    if not isinstance(url, str):
        raise InvalidRequest.of("fileUrl", "is required and must be an https URL", url)
    return await keep(request, caller, services, await fetch(services, url, "fileUrl"), fingerprint("assets", body))


@teams.post("/features")
async def create_feature(request: Request, caller: Caller) -> Response:
    """As ``POST /api/features``."""
    return await vary(request, caller)


router.include_router(teams)


def _shown(team: Team) -> dict[str, Any]:
    return {"uuid": team.id, "name": team.name, "credit": team.credit}
