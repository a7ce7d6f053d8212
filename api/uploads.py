"""The life of an upload: read with a limit, recognised, decoded, its key reserved, stored, owned."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from anyio import CancelScope, to_thread
from starlette.datastructures import UploadFile

from api.services import Services
from shared import assets
from shared.assets import Asset
from shared.errors import InvalidRequest, UploadTooLarge
from shared.ids import AssetKey
from shared.images import inspect
from shared.jobs import key_stamp
from shared.keys import ApiKey

UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_NAME: Final = 100  #: characters of a file name that its key keeps, counted from the end
LATER: Final = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Upload:
    """A stored upload, with what only its answer tells."""

    asset: Asset
    original_name: str
    etag: str  #: with its quotes


async def store_upload(services: Services, caller: ApiKey, file: UploadFile) -> Upload:
    """Store an image as it came, under a key that its owner has reserved; or nothing of it.

    Raises:
        UploadTooLarge, UnsupportedImage, BrokenImage: If the file is refused.
        RecordsUnavailable, StorageUnavailable: If a server does not answer.
    """
    size = file.size or 0
    limit = services.settings.api.max_upload_bytes
    if size > limit:
        raise UploadTooLarge(f"the image has {size} bytes; at most {limit} are allowed")
    look = partial(inspect, file.file, max_pixels=services.settings.api.max_pixels)
    image_type = await to_thread.run_sync(look, limiter=services.decoders)
    name = file.filename or "upload"
    asset = await _reserve(services, caller, name, size=size, content_type=image_type.value)
    try:
        await file.seek(0)
        put = partial(services.objects.put, asset.key, file.file, asset.content_type)
        etag = await services.in_thread(put)
        await services.run(assets.confirm(asset))
    except BaseException:
        with CancelScope(shield=True):  # also when the process ends while the storage hangs
            await services.run(assets.release(asset.key))
        raise
    return Upload(asset, name, etag)


async def require_source(services: Services, caller: ApiKey, reference: str, field: str) -> AssetKey:
    """Return the key of an image of the caller's team, named by its key, its location or a presigned link.

    Raises:
        InvalidRequest: If there is none; another team's is told as one that does not exist.
    """
    key = services.objects.key_of(reference) or AssetKey(reference)
    if await services.run(assets.find(key, caller.team_id)) is None:
        raise InvalidRequest(
            f"{field}: there is no image {reference!r}; upload it first and use its key or its location",
            details=({"field": field, "value": reference, "message": "there is no such image"},),
        )
    return key


async def _reserve(services: Services, caller: ApiKey, name: str, *, size: int, content_type: str) -> Asset:
    """Reserve the key of this millisecond for the name, or of the next one that is free."""
    now = datetime.now(UTC)
    while True:
        asset = Asset(
            key=AssetKey(f"{services.settings.storage.prefix}images/{key_stamp(now)}_{sanitised(name)}"),
            team_id=caller.team_id,
            user_id=caller.user_id,
            content_type=content_type,
            size_bytes=size,
            created_at=now,
        )
        if await services.run(assets.reserve(asset)):
            return asset
        now += LATER


def sanitised(name: str) -> str:
    """Return a file name's last part, in letters, digits, dots, dashes and underscores."""
    last = re.split(r"[/\\]", name)[-1]
    return UNSAFE.sub("_", last).lstrip(".")[-LONGEST_NAME:] or "upload"
