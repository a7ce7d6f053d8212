"""How often a key may ask."""

from datetime import timedelta
from typing import Final

from shared.errors import TooManyRequests
from shared.ids import KeyId
from shared.programs import Bounds, Program, commit

WINDOW: Final = timedelta(minutes=1)  #: begins with a key's first request, ends all at once


def count_request(key_id: KeyId, most: int) -> Program[None]:
    """Count one request of a key.

    Raises:
        TooManyRequests: If it has made ``most`` within the window.
    """
    place = f"rate:{key_id}"
    count = [("SET", place, 0, "EX", int(WINDOW.total_seconds()), "NX"), ("INCR", place)]
    if not (yield from commit([Bounds(("GET", place), most=most - 1)], count)):
        seconds = yield ("TTL", place)
        message = f"this key has made {most} requests within a minute, the most that are allowed"
        raise TooManyRequests(message, retry_after=max(1, seconds))
