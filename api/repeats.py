"""Which earlier request a request repeats, as its headers say."""

from typing import Final

from starlette.requests import Request

from shared import idempotency
from shared.errors import InvalidRequest
from shared.idempotency import Once
from shared.keys import ApiKey

LONGEST: Final = 255  #: characters of an Idempotency-Key


def once_of(request: Request, caller: ApiKey, asked: str) -> Once | None:
    """Return what makes this request the same as another; None if nothing does.

    Args:
        request: Its ``Idempotency-Key`` is known to the whole team; without one, ``x-stainless-retry-count`` is how
            OpenAI's SDKs say that they send again what they sent before.
        caller: Whose request.
        asked: Fingerprint of what it asks for.

    Raises:
        InvalidRequest: If the Idempotency-Key is too long.
    """
    key, retry = request.headers.get("idempotency-key"), request.headers.get("x-stainless-retry-count")
    if key is None:
        again = retry is not None and retry.isdecimal() and retry.strip("0") != ""
        return idempotency.retried(caller.id, asked, retry=again) if retry else None
    if not 1 <= len(key) <= LONGEST:
        raise InvalidRequest.of("Idempotency-Key", f"must have 1 to {LONGEST} characters, not {len(key)}")
    return idempotency.keyed(caller.team_id, key, asked)
