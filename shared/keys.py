"""API keys ``rq_<id>_<secret><checksum>``: shown once, stored as SHA-256."""

import hmac
import secrets
import string
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict

from shared.errors import InvalidRequest, NotFound, Unauthorized
from shared.ids import KeyId, TeamId, UserId
from shared.programs import Command, Guard, Program, commit
from shared.teams import ensure_user

ALPHABET: Final = string.ascii_letters + string.digits
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 32  #: 190 bits
CHECKSUM_LENGTH: Final = 8  #: CRC-32 in hexadecimal: a mistyped key needs no look-up
OWNER: Final = {"team_id", "team_name", "user_id", "user_name"}  #: what a key's successor takes over
INDEX: Final = "api_keys"  #: set of all key ids


class ApiKey(BaseModel):
    """What is stored about a key."""

    model_config = ConfigDict(frozen=True)

    id: KeyId
    team_id: TeamId
    team_name: str
    user_id: UserId
    user_name: str
    digest: str  #: SHA-256 of the whole key, hexadecimal
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def valid(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or datetime.now(UTC) < self.expires_at)


def create_key(team_name: str, user_name: str, *, lasts: timedelta | None = None) -> Program[str]:
    """Make a key for a user of a team, both made if they do not exist; return its text, which is not stored.

    Args:
        team_name: Who pays.
        user_name: Who in the team.
        lasts: How long the key works; None means until it is revoked.
    """
    user = yield from ensure_user(team_name, user_name)
    owner = {"team_id": user.team_id, "team_name": team_name, "user_id": user.user_id, "user_name": user_name}
    key, text = _drawn(owner, lasts)
    yield from commit([], _stored(key))
    return text


def check_key(text: str) -> Program[ApiKey]:
    """Return the key that the text is.

    Raises:
        Unauthorized: If it is none of ours, was revoked or has expired; which of them is not told.
    """
    parts = text.split("_")
    if len(parts) == 3 and text == _with_checksum(text[:-CHECKSUM_LENGTH]):  # noqa: PLR2004  rq, id, secret
        key = yield from _get(KeyId(parts[1]))
        if key and key.valid and hmac.compare_digest(key.digest, _digest(text)):
            return key
    raise Unauthorized("The API key is not valid")


def list_keys() -> Program[list[ApiKey]]:
    """Return all keys, the oldest first."""
    keys = []
    for key_id in (yield ("SMEMBERS", INDEX)):
        key = yield from _get(KeyId(key_id))
        if key:
            keys.append(key)
    return sorted(keys, key=lambda key: key.created_at)


def revoke_key(key_id: str) -> Program[None]:
    """End a key at once.

    Raises:
        NotFound: If there is no such key.
    """
    while True:
        unchanged, key = yield from _require(key_id)
        ended = key.model_copy(update={"revoked_at": key.revoked_at or datetime.now(UTC)})
        if (yield from commit([unchanged], _stored(ended))):
            return


def rotate_key(key_id: str, *, overlap: timedelta, lasts: timedelta | None = None) -> Program[str]:
    """Make a successor for the same user and return its text; the old key works on for the overlap at most.

    Raises:
        NotFound: If there is no such key.
        InvalidRequest: If it no longer works, so that there is nothing to succeed to.
    """
    _, key = yield from _require(key_id)
    fresh, shown = _drawn(key.model_dump(include=OWNER), lasts)
    while not (yield ("EXISTS", _place(fresh.id))):  # also when the answer to the commit was lost
        unchanged, key = yield from _require(key_id)
        if not key.valid:
            raise InvalidRequest(f"the key {key_id} was revoked or has expired; create a new one")
        end = datetime.now(UTC) + overlap
        ending = key.model_copy(update={"expires_at": min(end, key.expires_at or end)})
        yield from commit([unchanged], [*_stored(ending), *_stored(fresh)])
    return shown


def _drawn(owner: dict[str, Any], lasts: timedelta | None) -> tuple[ApiKey, str]:
    """Return a new key with its text."""
    key_id, now = KeyId(_draw(ID_LENGTH)), datetime.now(UTC)
    text = _with_checksum(f"rq_{key_id}_{_draw(SECRET_LENGTH)}")
    expires_at = None if lasts is None else now + lasts
    return ApiKey(id=key_id, digest=_digest(text), created_at=now, expires_at=expires_at, **owner), text


def _require(key_id: str) -> Program[tuple[Guard, ApiKey]]:
    """Return a key, with what holds as long as nobody changes it."""
    read = ("GET", _place(KeyId(key_id)))
    text = yield read
    if text is None:
        raise NotFound(f"there is no key {key_id}")
    return Guard(read, text), ApiKey.model_validate_json(text)


def _stored(key: ApiKey) -> list[Command]:
    return [("SET", _place(key.id), key.model_dump_json()), ("SADD", INDEX, key.id)]


def _get(key_id: KeyId) -> Program[ApiKey | None]:
    text = yield ("GET", _place(key_id))
    return _read(text) if text else None


@lru_cache(maxsize=1000)
def _read(text: str) -> ApiKey:
    return ApiKey.model_validate_json(text)


def _place(key_id: KeyId) -> str:
    return f"api_key:{key_id}"


def _draw(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _with_checksum(text: str) -> str:
    return f"{text}{crc32(text.encode()):08x}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
