"""How often a key may ask."""

from datetime import timedelta
from typing import Final

from shared.errors import TooManyRequests
from shared.ids import KeyId
from shared.programs import Program

WINDOW: Final = timedelta(minutes=1)  #: begins with a key's first request, ends all at once


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
