"""API keys ``rq_<id>_<secret><checksum>``: shown once, stored as SHA-256."""

import hmac
import secrets
import string
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict

from shared.errors import Unauthorized
from shared.ids import KeyId, TeamId, UserId
from shared.programs import Program
from shared.teams import ensure_user

ALPHABET: Final = string.ascii_letters + string.digits
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 32  #: 190 bits
CHECKSUM_LENGTH: Final = 8  #: CRC-32 in hexadecimal: a mistyped key needs no look-up
INDEX: Final = "keys"  #: set of all key ids


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
    revoked_at: datetime | None = None


def create_key(team_name: str, user_name: str) -> Program[str]:
    """Make a key for a user of a team, both made if they do not exist; return its text, which is not stored."""
    user = yield from ensure_user(team_name, user_name)
    key_id = KeyId(_draw(ID_LENGTH))
    text = _with_checksum(f"rq_{key_id}_{_draw(SECRET_LENGTH)}")
    key = ApiKey(
        id=key_id,
        team_id=user.team_id,
        team_name=team_name,
        user_id=user.user_id,
        user_name=user_name,
        digest=_digest(text),
        created_at=datetime.now(UTC),
    )
    yield ("SET", _place(key_id), key.model_dump_json())
    yield ("SADD", INDEX, key_id)
    return text


def check_key(text: str) -> Program[ApiKey]:
    """Return the key that the text is.

    Raises:
        Unauthorized: If it is none of ours or was revoked; which of them is not told.
    """
    parts = text.split("_")
    if len(parts) == 3 and text == _with_checksum(text[:-CHECKSUM_LENGTH]):  # noqa: PLR2004  rq, id, secret
        key = yield from _get(KeyId(parts[1]))
        if key and key.revoked_at is None and hmac.compare_digest(key.digest, _digest(text)):
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


def revoke_key(key_id: str) -> Program[bool]:
    """End a key at once; False if there is no such key."""
    key = yield from _get(KeyId(key_id))
    if key is None:
        return False
    if key.revoked_at is None:
        yield ("SET", _place(key.id), key.model_copy(update={"revoked_at": datetime.now(UTC)}).model_dump_json())
    return True


def _get(key_id: KeyId) -> Program[ApiKey | None]:
    text = yield ("GET", _place(key_id))
    return ApiKey.model_validate_json(text) if text else None


def _place(key_id: KeyId) -> str:
    return f"key:{key_id}"


def _draw(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _with_checksum(text: str) -> str:
    return f"{text}{crc32(text.encode()):08x}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
