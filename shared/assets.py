"""Who owns which stored image. The records server knows it; the bucket does not."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from shared import idempotency
from shared.idempotency import Once
from shared.ids import AssetKey, JobId, TeamId, UserId
from shared.programs import Command, Guard, Program, broken_guard, commit


class Asset(BaseModel):
    """A stored image: an uploaded source, or a variation, which may be varied again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: AssetKey
    team_id: TeamId
    user_id: UserId
    content_type: str
    size_bytes: int
    created_at: datetime
    etag: str = ""  #: of an upload, with its quotes
    stored: bool = False  #: False: only its key is reserved
    job_id: JobId | None = None  #: whose variation it is
    deleted_at: datetime | None = None  #: its object is gone; the key stays taken

    @property
    def there(self) -> bool:
        return self.stored and self.deleted_at is None


def reserve(asset: Asset, once: Once | None = None) -> Program[Asset | None]:
    """Take the key for its owner before anything is written there.

    Returns:
        The asset, or the one that the same request reserved earlier, which may be stored or deleted by now; None if
        the key is taken.

    Raises:
        IdempotencyKeyReused: If the earlier request was for something else.
    """
    earlier = yield from idempotency.find(once)
    new = asset.model_copy(update={"key": AssetKey(earlier)}) if earlier else asset
    if earlier and (text := (yield ("GET", _place(new.key)))):
        return Asset.model_validate_json(text)
    first, remember = idempotency.mark(None if earlier else once, new.key)
    free = Guard(("GET", _place(new.key)), "")
    broken = yield from broken_guard([free, *first], [_set(new), *remember])
    if broken is None:
        return new
    return (yield from reserve(asset, once)) if earlier or broken in first else None


def keep(stored: Asset) -> Command:
    """Return the command that says that the asset's object is in the bucket."""
    return _set(stored)


def confirm(reserved: Asset, stored: Asset) -> Program[Asset | None]:
    """Say that a reserved asset's object is in the bucket, and return what stands under its key afterwards.

    That is another's record, a tombstone or nothing if the key was given back or its image deleted meanwhile.
    """
    place = _place(reserved.key)
    if (yield from commit([Guard(("GET", place), reserved.model_dump_json())], [keep(stored)])):
        return stored
    text = yield ("GET", place)
    return Asset.model_validate_json(text) if text else None


def discard(key: AssetKey) -> Command:
    """Return the command that forgets an asset."""
    return ("DEL", _place(key))


def release(reserved: Asset, once: Once | None = None) -> Program[None]:
    """Give a key back, and what remembers it, unless somebody changed its record meanwhile."""
    forget: list[Command] = [("DEL", once.place)] if once else []
    unchanged = Guard(("GET", _place(reserved.key)), reserved.model_dump_json())
    yield from commit([unchanged], [discard(reserved.key), *forget])


def bury(asset: Asset, now: datetime) -> Program[Asset]:
    """Leave a tombstone for an asset whose object is gone."""
    tombstone = asset.model_copy(update={"deleted_at": asset.deleted_at or now})
    yield _set(tombstone)
    return tombstone


def find(key: AssetKey, team_id: TeamId) -> Program[Asset | None]:
    """Return a team's stored asset, or its tombstone; another team's is as one that does not exist."""
    text = yield ("GET", _place(key))
    asset = Asset.model_validate_json(text) if text else None
    return asset if asset and asset.stored and asset.team_id == team_id else None


def _set(asset: Asset) -> Command:
    return ("SET", _place(asset.key), asset.model_dump_json())


def _place(key: AssetKey) -> str:
    return f"asset:{key}"
