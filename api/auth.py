"""Who calls: the key in one of three headers, and not too often."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from api.services import services_of
from shared.errors import Unauthorized
from shared.keys import ApiKey
from shared.limits import admit


async def authenticate(request: Request) -> ApiKey:
    """Return the caller's key.

    Raises:
        Unauthorized: If there is none, or it is wrong, revoked or expired.
        TooManyRequests: If it asks too often.
    """
    headers = request.headers
    sent = headers.get("api-key") or _bearer(headers.get("authorization")) or _bearer(headers.get("x-auth-token"))
    if not sent:
        raise Unauthorized("The API key is missing; send it in the header API-KEY or as Authorization: Bearer <key>")
    services = services_of(request)
    return await services.run(admit(sent, services.settings.teams.requests_per_minute, services.known_keys))


Caller = Annotated[ApiKey, Depends(authenticate)]


def _bearer(header: str | None) -> str | None:
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
