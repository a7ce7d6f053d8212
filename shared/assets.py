"""Who owns which stored image. The records server knows it; the bucket does not."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from shared import idempotency
from shared.idempotency import Once
from shared.ids import AssetKey, JobId, TeamId, UserId
from shared.programs import Command, Guard, Program, broken_guard, commit, lowest

#: Sorted sets, by Unix seconds:
RESERVED: Final = "assets:reserved"  #: keys under which an upload may be stored right now, by the time it began
STORED: Final = "assets:stored"  #: keys of all images in the bucket, by the time they came
PLANNED: Final = "objects:planned"  #: keys under which a running attempt will write
ORPHANED: Final = "objects:orphaned"  #: keys that no one owns and an object may be under, by the time they were left

BURIED: Final = timedelta(days=30)  #: a key carries the time at which it was made, so it never comes again


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
    if earlier and (text := (yield ("GET", _place(AssetKey(earlier))))):
        return Asset.model_validate_json(text)
    # A key that was given up is never taken again: the sweeper deletes what is stored there.
    first, remember = idempotency.mark(once, asset.key, instead_of=earlier)
    noted: Command = ("ZADD", RESERVED, asset.created_at.timestamp(), asset.key)
    broken = yield from broken_guard([*vacant(asset.key), *first], [_set(asset), noted, *remember])
    if broken is None:
        return asset
    return (yield from reserve(asset, once)) if broken in first else None


def vacant(key: AssetKey) -> list[Guard]:
    """Return what must hold for nothing to be or come under a key."""
    listed = [Guard(("ZSCORE", index, key), "") for index in (PLANNED, ORPHANED)]
    return [Guard(("GET", _place(key)), ""), *listed]


def plan(key: AssetKey, at: datetime) -> Command:
    """Return the command that says that an attempt will write there, until :func:`unplan`."""
    return ("ZADD", PLANNED, at.timestamp(), key)


def unplan(key: AssetKey) -> Command:
    """Return the command that says that its attempt is over."""
    return ("ZREM", PLANNED, key)


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
    keys: list[AssetKey] = yield lowest(ORPHANED, until.timestamp(), limit)
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
    """Leave a tombstone for an asset whose object is gone; its key stays taken for :data:`BURIED`."""
    tombstone = asset.model_copy(update={"deleted_at": asset.deleted_at or now})
    lasts = int(BURIED.total_seconds())
    yield from commit([], [(*_set(tombstone), "EX", lasts), *_unlisted(asset.key)])
    return tombstone


def older(index: str, than: datetime, limit: int) -> Program[Sequence[Asset]]:
    """Return the assets of an index, :data:`RESERVED` or :data:`STORED`, that came before; the oldest first.

    Keys of which nothing is known, or nothing that can be read, leave the index, so that they hide no others.
    """
    keys = yield lowest(index, than.timestamp(), limit)
    found = []
    for key, text in zip(keys, (yield ("MGET", *map(_place, keys))) if keys else [], strict=True):
        try:
            found.append(Asset.model_validate_json(text or ""))
        except ValidationError:
            yield ("ZREM", index, key)
    return found


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
