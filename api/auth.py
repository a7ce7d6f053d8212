"""Who calls: the key in one of three headers."""

from starlette.requests import Request

from api.services import services_of
from shared.errors import Unauthorized
from shared.keys import ApiKey, check_key


async def authenticate(request: Request) -> ApiKey:
    """Return the caller's key.

    Raises:
        Unauthorized: If there is none, or it is wrong or revoked.
    """
    headers = request.headers
    sent = headers.get("api-key") or _bearer(headers.get("authorization")) or _bearer(headers.get("x-auth-token"))
    if not sent:
        raise Unauthorized("The API key is missing; send it in the header API-KEY or as Authorization: Bearer <key>")
    return await services_of(request).run(check_key(sent))


def _bearer(header: str | None) -> str | None:
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
