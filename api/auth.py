"""Who calls: the key in one of three headers, and not too often."""

from hashlib import sha256
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from api.dependencies import services_of
from shared.errors import Unauthorized
from shared.keys import ApiKey, check_key
from shared.limits import admit
from shared.programs import Program


async def authenticate(request: Request) -> ApiKey:
    """Return the caller's key, and count the request.

    Raises:
        Unauthorized: If there is none, or it is wrong, revoked or expired.
        TooManyRequests: If it asks too often.
    """
    services = services_of(request)
    most = services.settings.teams.requests_per_minute
    return await services.run(admit(_sent(request), most, services.known_keys))


def presumed(request: Request) -> ApiKey | None:
    """Return the caller's key if it was right once; whether it works still is for :func:`check` to say."""
    return services_of(request).known_keys.get(sha256(_sent(request).encode()).hexdigest())


def check(request: Request) -> Program[ApiKey]:
    """Return the caller's key without counting the request; Unauthorized if it does not work."""
    return check_key(_sent(request))


Caller = Annotated[ApiKey, Depends(authenticate)]


def _sent(request: Request) -> str:
    headers = request.headers
    sent = headers.get("api-key") or _bearer(headers.get("authorization")) or _bearer(headers.get("x-auth-token"))
    if not sent:
        raise Unauthorized("The API key is missing; send it in the header API-KEY or as Authorization: Bearer <key>")
    return sent


def _bearer(header: str | None) -> str | None:
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
