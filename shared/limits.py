"""Who may ask, and how often."""

from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from shared.errors import TooManyRequests
from shared.ids import KeyId
from shared.keys import ApiKey, check_key
from shared.programs import Program, together

WINDOW: Final = timedelta(minutes=1)  #: begins with a key's first request, ends all at once
REMEMBERED: Final = 10_000  #: keys; whose check and count are asked in one go


def admit(text: str, most: int, known: dict[str, ApiKey]) -> Program[ApiKey]:
    """Return the key that the text is, and count one request of it.

    Only who has a key's secret can use up its requests, so a text is checked before it is counted, unless it was right
    once: whose it is never changes, but for whether it works still.

    Args:
        text: As the caller sent it.
        most: How many requests a key may make within the window.
        known: Keys that were right once, by their digest; this one is added.

    Raises:
        Unauthorized: If it is none of ours, was revoked or has expired; which of them is not told.
        TooManyRequests: As :func:`count_request`.
    """
    digest = sha256(text.encode()).hexdigest()
    if digest in known:
        both: list[Program[Any]] = [check_key(text), count_request(known[digest].id, most)]
        key: ApiKey = (yield from together(both))[0]
        return key
    key = yield from check_key(text)
    if len(known) >= REMEMBERED:
        known.clear()
    known[digest] = key
    yield from count_request(key.id, most)
    return key


def count_request(key_id: KeyId, most: int) -> Program[None]:
    """Count one request of a key.

    Raises:
        TooManyRequests: If it has made ``most`` within the window.
    """
    place = f"rate:{key_id}"
    count, _ = yield [("INCR", place), ("EXPIRE", place, int(WINDOW.total_seconds()), "NX")]
    if int(count) > most:
        seconds = yield ("TTL", place)
        message = f"this key has made {most} requests within a minute, the most that are allowed"
        raise TooManyRequests(message, retry_after=max(1, seconds))
