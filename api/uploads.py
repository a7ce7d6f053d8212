"""The life of an upload: read with a limit, recognised, decoded apart, its key reserved, stored, owned."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

from anyio import CancelScope, to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from api.decoding import inspect_apart
from api.services import Services
from shared import assets
from shared.assets import Asset
from shared.errors import (
    EgressFailed,
    EgressRefused,
    InsufficientCredits,
    InvalidRequest,
    TooManyRequests,
    UnsupportedMediaType,
    UploadTooLarge,
)
from shared.idempotency import Once
from shared.ids import AssetKey
from shared.images import ImageType
from shared.jobs import key_stamp
from shared.keys import ApiKey

UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_NAME: Final = 100  #: characters of a file name that its key keeps, counted from the end
LATER: Final = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Upload:
    """An image that came, checked and not yet stored."""

    name: str  #: as the client calls it
    file: BinaryIO
    image_type: ImageType
    size_bytes: int
    digest: str  #: SHA-256, hexadecimal


@dataclass(frozen=True)
class Stored:
    """A stored upload, with what only its answer tells."""

    asset: Asset
    original_name: str
    etag: str  #: with its quotes


@asynccontextmanager
async def form_with(request: Request, field: str) -> AsyncIterator[tuple[FormData, UploadFile]]:
    """Give the request's form and the one file in it.

    Raises:
        UnsupportedMediaType: If the body is no form with files.
        InvalidRequest: If the file is missing.
    """
    sent = request.headers.get("content-type", "")
    if not sent.startswith("multipart/form-data"):
        raise UnsupportedMediaType(f"the body must be multipart/form-data, not {sent or 'without a Content-Type'}")
    async with request.form(max_files=1) as form:
        file = form.get(field)
        if not isinstance(file, UploadFile):
            what = f"is required and missing; send one image as a multipart file field {field!r}"
            raise InvalidRequest.of(field, what)
        yield form, file


async def receive(services: Services, file: UploadFile, field: str) -> Upload:
    """Check the upload in a form's field, so far that it can be decoded.

    Raises:
        UploadTooLarge, UnsupportedImage, BrokenImage: If the file is refused.
    """
    size, limit = file.size or 0, services.settings.api.max_upload_bytes
    if size > limit:
        raise UploadTooLarge.of(field, f"the image has {size} bytes; at most {limit} are allowed", size)
    return await _check(services, field, file.filename or "upload", file.file)


async def store(services: Services, caller: ApiKey, upload: Upload, once: Once | None = None) -> Stored:
    """Store an image as it came, under a key that its owner has reserved; or nothing of it.

    Raises:
        IdempotencyKeyReused: If the same request was for another image.
        RecordsUnavailable, StorageUnavailable: If a server does not answer.
    """
    asset = await _reserve(services, caller, upload, once)
    try:
        upload.file.seek(0)
        put = partial(services.objects.put, asset.key, upload.file, asset.content_type)
        etag = await services.in_thread(put)
        await services.run(assets.confirm(asset))
    except BaseException:
        with CancelScope(shield=True):  # also when the process ends while the storage hangs
            await services.run(assets.release(asset.key))
        raise
    return Stored(asset, upload.name, etag)


@asynccontextmanager
async def stored_source(
    services: Services, caller: ApiKey, upload: Upload, once: Once | None = None
) -> AsyncIterator[AssetKey]:
    """Store an upload as a job's source, and remove it again if the job is refused."""
    key = (await store(services, caller, upload, once)).asset.key
    try:
        yield key
    except (InsufficientCredits, InvalidRequest, TooManyRequests):
        with CancelScope(shield=True):
            await services.in_thread(partial(services.objects.delete, key))
            await services.run(assets.release(key))
        raise


@asynccontextmanager
async def named_source(services: Services, caller: ApiKey, reference: str, field: str) -> AsyncIterator[AssetKey]:
    """Give the key of a job's source: an image of the caller's team, or one fetched from elsewhere.

    Args:
        services: Servers.
        caller: Who may use it.
        reference: Its key, its location, a presigned link, or an https URL elsewhere if the operator allows those.
        field: What the facade calls it.

    Raises:
        InvalidRequest: If there is none; another team's is told as one that does not exist.
    """
    key = services.objects.key_of(reference) or AssetKey(reference)
    if await find_asset(services, caller, key):
        yield key
    elif reference.startswith(("http://", "https://")):
        upload = await fetch(services, reference, field)
        async with stored_source(services, caller, upload) as fetched:
            yield fetched
    else:
        what = f"there is no image {reference!r}; upload it first and use its key or its location"
        raise InvalidRequest.of(field, what, reference)


async def find_asset(services: Services, caller: ApiKey, key: AssetKey) -> Asset | None:
    """Return a stored image of the caller's team; None also for one that was deleted."""
    asset = await services.run(assets.find(key, caller.team_id))
    return asset if asset and asset.deleted_at is None else None


async def fetch(services: Services, url: str, field: str) -> Upload:
    """Fetch an image from elsewhere and check it.

    Raises:
        InvalidRequest: If the operator does not allow that, the URL is refused or leads to no image.
    """
    if not services.settings.egress.image_urls:
        raise InvalidRequest.of(field, "URLs elsewhere are not allowed here; upload the image first", url)
    call = partial(services.egress.fetch, url, max_bytes=services.settings.api.max_upload_bytes)
    try:
        data = await to_thread.run_sync(call, limiter=services.fetchers)
    except (EgressRefused, EgressFailed) as error:
        raise InvalidRequest.of(field, error.message, url) from error
    name = unquote(urlsplit(url).path) or "image"
    return await _check(services, field, name, BytesIO(data))


async def _check(services: Services, field: str, name: str, file: BinaryIO) -> Upload:
    async with services.decoders:  # only as many whole files in memory as are decoded at a time
        file.seek(0)
        data = file.read()
        try:
            image_type = await inspect_apart(data, max_pixels=services.settings.api.max_pixels)
        except InvalidRequest as error:
            raise type(error).of(field, error.message, name) from error
        return Upload(name, file, image_type, len(data), sha256(data).hexdigest())


async def _reserve(services: Services, caller: ApiKey, upload: Upload, once: Once | None) -> Asset:
    """Reserve the key of this millisecond for the name, or of the next one that is free."""
    now = datetime.now(UTC)
    while True:
        asset = Asset(
            key=AssetKey(f"{services.settings.storage.prefix}images/{key_stamp(now)}_{sanitised(upload.name)}"),
            team_id=caller.team_id,
            user_id=caller.user_id,
            content_type=upload.image_type.value,
            size_bytes=upload.size_bytes,
            created_at=now,
        )
        if key := await services.run(assets.reserve(asset, once)):
            return asset.model_copy(update={"key": key})
        now += LATER


def sanitised(name: str) -> str:
    """Return a file name's last part, in letters, digits, dots, dashes and underscores."""
    last = re.split(r"[/\\]", name)[-1]
    return UNSAFE.sub("_", last).lstrip(".")[-LONGEST_NAME:] or "upload"
