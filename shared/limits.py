"""Who may ask, and how often."""

from datetime import timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from shared.errors import TooManyRequests
from shared.ids import KeyId
from shared.keys import ApiKey, check_key
from shared.programs import Bounds, Command, Program

WINDOW: Final = timedelta(minutes=1)  #: begins with a key's first request, ends all at once
REMEMBERED: Final = 10_000  #: keys that were right once


class Rate(NamedTuple):
    """How often a key may ask."""

    key_id: KeyId
    most: int  #: requests within the window

    @property
    def place(self) -> str:
        return f"rate:{self.key_id}"

    @property
    def kept(self) -> Bounds:
        """What must hold for one more request."""
        return Bounds(("GET", self.place), most=self.most - 1)

    @property
    def one_more(self) -> list[Command]:
        """The commands that count a request."""
        return [("INCR", self.place), ("EXPIRE", self.place, int(WINDOW.total_seconds()), "NX")]

    def look(self) -> Program[None]:
        """Raise TooManyRequests if one more would be too many by now."""
        if int((yield ("GET", self.place)) or 0) >= self.most:
            raise (yield from self.refusal())

    def refusal(self) -> Program[TooManyRequests]:
        """Return the error that says when the key may ask again."""
        seconds = yield ("TTL", self.place)
        message = f"this key has made {self.most} requests within a minute, the most that are allowed"
        return TooManyRequests(message, retry_after=max(1, seconds))


def admit(text: str, most: int, known: dict[str, ApiKey]) -> Program[ApiKey]:
    """Return the key that the text is, and count one request of it.

    Only who has a key's secret can use up its requests, so a text is checked before it is counted.

    Args:
        text: As the caller sent it.
        most: How many requests a key may make within the window.
        known: Keys that were right once, by their digest; this one is added.

    Raises:
        Unauthorized: If it is none of ours, was revoked or has expired; which of them is not told.
        TooManyRequests: If it has made ``most`` within the window.
    """
    key = yield from check_key(text)
    if len(known) >= REMEMBERED:
        known.clear()
    known[sha256(text.encode()).hexdigest()] = key
    rate = Rate(key.id, most)
    count, _ = yield rate.one_more
    if int(count) > most:
        raise (yield from rate.refusal())
    return key
