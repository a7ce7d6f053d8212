"""Who owns which stored image. The records server knows it; the bucket does not."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from shared import idempotency
from shared.idempotency import Once
from shared.ids import AssetKey, JobId, TeamId, UserId
from shared.programs import Command, Guard, Program, broken_guard, commit

#: Sorted sets, by Unix seconds:
RESERVED: Final = "assets:reserved"  #: keys under which an upload may be stored right now, by the time it began
STORED: Final = "assets:stored"  #: keys of all images in the bucket, by the time they came
ORPHANED: Final = "objects:orphaned"  #: keys that no one owns and an object may be under, by the time they were left


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
    noted: Command = ("ZADD", RESERVED, new.created_at.timestamp(), new.key)
    broken = yield from broken_guard([free, *first], [_set(new), noted, *remember])
    if broken is None:
        return new
    return (yield from reserve(asset, once)) if earlier or broken in first else None


def keep(stored: Asset) -> list[Command]:
    """Return the commands that say that the asset's object is in the bucket."""
    noted: Command = ("ZADD", STORED, stored.created_at.timestamp(), stored.key)
    return [_set(stored), noted, ("ZREM", RESERVED, stored.key)]


def confirm(reserved: Asset, stored: Asset) -> Program[Asset | None]:
    """Say that a reserved asset's object is in the bucket, and return what stands under its key afterwards.

    That is another's record, a tombstone or nothing if the key was given back or its image deleted meanwhile.
    """
    place = _place(reserved.key)
    if (yield from commit([Guard(("GET", place), reserved.model_dump_json())], keep(stored))):
        return stored
    text = yield ("GET", place)
    return Asset.model_validate_json(text) if text else None


def discard(key: AssetKey) -> list[Command]:
    """Return the commands that forget an asset."""
    return [("DEL", _place(key)), *_unlisted(key)]


def orphan(key: AssetKey, at: datetime) -> Command:
    """Return the command after which the sweeper deletes what may be stored under a key."""
    return ("ZADD", ORPHANED, at.timestamp(), key)


def abandon(asset: Asset, now: datetime) -> Program[None]:
    """Forget an asset and have its object deleted, unless somebody changed its record meanwhile."""
    unchanged = Guard(("GET", _place(asset.key)), asset.model_dump_json())
    yield from commit([unchanged], [*discard(asset.key), orphan(asset.key, now)])


def orphaned(until: datetime, limit: int) -> Program[list[AssetKey]]:
    """Return keys that were left before."""
    keys: list[AssetKey] = yield ("ZRANGE", ORPHANED, "-inf", until.timestamp(), "BYSCORE", "LIMIT", 0, limit)
    return keys


def forget_orphan(key: AssetKey) -> Program[None]:
    """Note that nothing is stored under a key."""
    yield ("ZREM", ORPHANED, key)


def release(reserved: Asset, once: Once | None = None) -> Program[None]:
    """Give a key back, and what remembers it, unless somebody changed its record meanwhile."""
    forget: list[Command] = [("DEL", once.place)] if once else []
    unchanged = Guard(("GET", _place(reserved.key)), reserved.model_dump_json())
    yield from commit([unchanged], [*discard(reserved.key), *forget])


def bury(asset: Asset, now: datetime) -> Program[Asset]:
    """Leave a tombstone for an asset whose object is gone."""
    tombstone = asset.model_copy(update={"deleted_at": asset.deleted_at or now})
    yield from commit([], [_set(tombstone), *_unlisted(asset.key)])
    return tombstone


def older(index: str, than: datetime, limit: int) -> Program[Sequence[Asset]]:
    """Return the assets of an index, :data:`RESERVED` or :data:`STORED`, that came before; the oldest first."""
    keys = yield ("ZRANGE", index, "-inf", than.timestamp(), "BYSCORE", "LIMIT", 0, limit)
    texts = (yield ("MGET", *map(_place, keys))) if keys else []
    return [Asset.model_validate_json(text) for text in texts if text]


def find(key: AssetKey, team_id: TeamId) -> Program[Asset | None]:
    """Return a team's stored asset, or its tombstone; another team's is as one that does not exist."""
    text = yield ("GET", _place(key))
    asset = Asset.model_validate_json(text) if text else None
    return asset if asset and asset.stored and asset.team_id == team_id else None


def _unlisted(key: AssetKey) -> list[Command]:
    return [("ZREM", RESERVED, key), ("ZREM", STORED, key)]


def _set(asset: Asset) -> Command:
    return ("SET", _place(asset.key), asset.model_dump_json())


def _place(key: AssetKey) -> str:
    return f"asset:{key}"
