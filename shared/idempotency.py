"""Requests that are sent more than once and must act once."""

import json
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

from shared.errors import IdempotencyKeyReused
from shared.ids import KeyId, TeamId
from shared.programs import Command, Guard, Program

REMEMBERED: Final = timedelta(hours=24)  #: how long a client's Idempotency-Key is known
RETRIED: Final = timedelta(hours=1)  #: how long a retry without a key finds its job while that is open
JUST_ENDED: Final = timedelta(minutes=1)  #: and how long after its end; later, it must be a retry of a refused call
_ENCODE: Final = json.JSONEncoder(sort_keys=True).encode  #: json.dumps would make one for each call


class Once(NamedTuple):
    """One request, however often it is sent."""

    place: str
    fingerprint: str  #: SHA-256 of what it asks for
    lasts: timedelta
    repeats: bool  #: whether an earlier one counts; if not, this is a new request that later ones may repeat
    ended: timedelta | None = None  #: how long after its end a job counts as the request's; None: as long as it lasts


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of values that JSON can write, whatever the order of their fields."""
    return sha256(_ENCODE(parts).encode()).hexdigest()


def keyed(team_id: TeamId, key: str, asked: str) -> Once:
    """Return the request that a client's Idempotency-Key names; ``asked`` is its fingerprint."""
    return Once(f"once:{team_id}:{fingerprint(key)}", asked, REMEMBERED, repeats=True)


def retried(key_id: KeyId, asked: str, *, retry: bool) -> Once:
    """Return the request that an SDK sends again as it was, if ``retry`` says so."""
    return Once(f"retry:{key_id}:{asked}", asked, RETRIED, repeats=retry, ended=JUST_ENDED)


def find(once: Once | None) -> Program[str | None]:
    """Return what the same request made earlier.

    Raises:
        IdempotencyKeyReused: If the earlier one asked for something else.
    """
    if once is None or not once.repeats or not (found := (yield ("GET", once.place))):
        return None
    asked, made = found.split(" ", 1)
    if asked != once.fingerprint:
        raise IdempotencyKeyReused.of("Idempotency-Key", "was used for another request within the last 24 hours")
    return str(made)


def mark(once: Once | None, made: str, *, instead_of: str | None = None) -> tuple[list[Guard], list[Command]]:
    """Return what must hold for the request to be the first, and what remembers what it made."""
    if once is None:
        return [], []
    remember: Command = ("SET", once.place, f"{once.fingerprint} {made}", "EX", int(once.lasts.total_seconds()))
    before = f"{once.fingerprint} {instead_of}" if instead_of else ""
    return [Guard(("GET", once.place), before)] if once.repeats else [], [remember]
