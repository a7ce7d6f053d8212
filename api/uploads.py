"""The life of an upload: read with a limit, decoded apart, its key reserved, stored, owned."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import BinaryIO, Final

from anyio import CancelScope
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from api.decoding import inspect_apart
from api.services import Services
from shared import assets
from shared.assets import Asset
from shared.errors import InvalidRequest, Unavailable, UnsupportedMediaType, UploadTooLarge
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


@asynccontextmanager
async def form_with(request: Request, field: str) -> AsyncIterator[tuple[FormData, UploadFile]]:
    """Give the request's form and the one file in it.

    Raises:
        UnsupportedMediaType: If the body is no form with files, in UTF-8.
        InvalidRequest: If the file is missing.
    """
    sent = request.headers.get("content-type", "nothing")
    kind, options = parse_options_header(sent)
    if kind != b"multipart/form-data" or options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise UnsupportedMediaType(f"Content-Type: must be multipart/form-data in UTF-8, not {sent}")
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
    return await check(services, field, file.filename or "upload", file.file)


async def store(services: Services, caller: ApiKey, upload: Upload, once: Once | None = None) -> Asset:
    """Store an image as it came, under a key that its owner has reserved.

    What the same request stored earlier stands as it is. After an error nobody owns the image; its object may be in
    the bucket all the same, if the storage went on with what it did not answer.

    Raises:
        IdempotencyKeyReused: If the same request was for another image.
        InvalidRequest: If what it stored has been deleted.
        RecordsUnavailable, StorageUnavailable: If a server does not answer.
    """
    asset = await _reserve(services, caller, upload, once)
    if asset.deleted_at:
        raise InvalidRequest.of("Idempotency-Key", "belongs to an image that was deleted; send another key")
    if asset.there:
        return asset
    try:
        return await _put(services, upload, asset)
    except BaseException:
        with CancelScope(shield=True), suppress(Unavailable):  # also when the process ends while the storage hangs
            await services.run(assets.abandon(asset, services.clock.now()))
        raise


async def _put(services: Services, upload: Upload, asset: Asset) -> Asset:
    upload.file.seek(0)
    content_type = upload.image_type.value
    etag = await services.in_thread(partial(services.objects.put, asset.key, upload.file, content_type))
    # Of what was put: a twin that reserved the key may have fetched other bytes from the same URL.
    found = {"etag": etag, "content_type": content_type, "size_bytes": upload.size_bytes, "stored": True}
    stored = asset.model_copy(update=found)
    standing = await services.run(assets.confirm(asset, stored))
    if standing and standing.there:
        return standing
    if standing and standing.deleted_at:  # else it may be a twin's by now
        await services.in_thread(partial(services.objects.delete, asset.key))
    raise Unavailable("the image was deleted, or its key given back, while it was being stored")


async def check(services: Services, field: str, name: str, file: BinaryIO) -> Upload:
    """Decode an image to its end; see :func:`receive`."""
    async with services.decoders:  # only as many whole files in memory as are decoded at a time
        data, digest = await services.in_thread(partial(_read, file))
        try:
            image_type = await inspect_apart(data, max_pixels=services.settings.api.max_pixels)
        except InvalidRequest as error:
            raise type(error).of(field, error.message, name) from error
        return Upload(name, file, image_type, len(data), digest)


def _read(file: BinaryIO) -> tuple[bytes, str]:
    file.seek(0)
    data = file.read()
    return data, sha256(data).hexdigest()


async def _reserve(services: Services, caller: ApiKey, upload: Upload, once: Once | None) -> Asset:
    """Reserve the key of this millisecond for the name, or of the next one that is free."""
    now = services.clock.now()
    while True:
        asset = Asset(
            key=AssetKey(f"{services.settings.storage.prefix}images/{key_stamp(now)}_{sanitised(upload.name)}"),
            team_id=caller.team_id,
            user_id=caller.user_id,
            content_type=upload.image_type.value,
            size_bytes=upload.size_bytes,
            created_at=now,
        )
        if standing := await services.run(assets.reserve(asset, once)):
            return standing
        now += LATER


def sanitised(name: str) -> str:
    """Return a file name's last part, in letters, digits, dots, dashes and underscores."""
    last = re.split(r"[/\\]", name)[-1]
    return UNSAFE.sub("_", last).lstrip(".")[-LONGEST_NAME:] or "upload"
