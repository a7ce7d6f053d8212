"""Where a job's source comes from: the team's images, the request itself, or elsewhere."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from anyio import CancelScope

from api.fields import shown
from api.services import Services
from api.uploads import Upload, check, store
from shared import assets
from shared.assets import Asset
from shared.errors import EgressFailed, EgressRefused, InvalidRequest, RecordsUnavailable, ReduxqError, Unavailable
from shared.idempotency import Once
from shared.ids import AssetKey
from shared.keys import ApiKey
from shared.programs import Program

IMAGE_URL: Final = "promptObject.imageUrl"


@dataclass
class Source:
    """A stored image for a job."""

    key: AssetKey
    owned: bool  #: stored for this job alone, so that it leaves with it
    overtaken: bool = False  #: a twin of the request was accepted first, with a source of its own


SourceContext = AbstractAsyncContextManager[Source]  #: left by a refusal or overtaken, it removes what it stored


class Wanted(NamedTuple):
    """A source that is still to be found or stored."""

    look: Program[Asset | None]  #: what must be known first; it is asked along with other things
    come: Callable[[Asset | None], SourceContext]


def stored_source(services: Services, caller: ApiKey, upload: Upload, once: Once | None) -> Wanted:
    """Store an upload as a job's source; requests with one Idempotency-Key share theirs."""
    return Wanted(_nothing(), lambda _: _store(services, caller, upload, once))


def named_source(services: Services, caller: ApiKey, reference: str, once: Once | None) -> Wanted:
    """Give the source that ``imageUrl`` names: an image of the caller's team, or one fetched from elsewhere.

    It is named by its key, its location, a presigned link, or an https URL elsewhere if the operator allows those.
    Entered, it raises InvalidRequest if there is none; another team's is told as one that does not exist.
    """

    @asynccontextmanager
    async def come(asset: Asset | None) -> AsyncIterator[Source]:
        if key := key_there(services, reference, asset):
            yield Source(key, owned=False)
        else:
            upload = await fetch(services, reference, IMAGE_URL)
            async with _store(services, caller, upload, once) as fetched:
                yield fetched

    return Wanted(look_up(services, caller, reference), come)


def look_up(services: Services, caller: ApiKey, reference: str) -> Program[Asset | None]:
    """Return what the caller's team has under the key that ``imageUrl`` may be."""
    return assets.find(services.objects.key_of(reference) or AssetKey(reference), caller.team_id)


def key_there(services: Services, reference: str, asset: Asset | None) -> AssetKey | None:
    """Return the key of what ``imageUrl`` names and :func:`look_up` found; None if it is to be fetched.

    Raises:
        InvalidRequest: If it is neither here nor a URL elsewhere.
    """
    if asset and asset.there:
        return asset.key
    if is_elsewhere(services, reference):
        return None
    what = f"there is no image {shown(reference)}; upload it first and use its key or its location"
    raise InvalidRequest.of(IMAGE_URL, what, reference)


def is_elsewhere(services: Services, reference: str) -> bool:
    """Say whether ``imageUrl`` is a URL that does not lead to our storage."""
    return reference.startswith(("http://", "https://")) and services.objects.key_of(reference) is None


def _nothing() -> Program[None]:
    yield from ()


@asynccontextmanager
async def _store(services: Services, caller: ApiKey, upload: Upload, once: Once | None) -> AsyncIterator[Source]:
    image = once._replace(place=f"{once.place}:image") if once and once.ended is None else None
    asset = await store(services, caller, upload, image)
    source = Source(asset.key, owned=True)
    unneeded = False
    try:
        yield source
        unneeded = source.overtaken and image is None
    except RecordsUnavailable:  # the job may have been accepted all the same
        raise
    except ReduxqError:
        unneeded = True
        raise
    finally:
        if unneeded:
            with CancelScope(shield=True), suppress(Unavailable):
                await services.in_thread(partial(services.objects.delete, asset.key))
                await services.run(assets.release(asset, image))


async def find_asset(services: Services, caller: ApiKey, key: AssetKey) -> Asset | None:
    """Return a stored image of the caller's team; None also for one that was deleted."""
    asset = await services.run(assets.find(key, caller.team_id))
    return asset if asset and asset.there else None


async def fetch(services: Services, url: str, field: str) -> Upload:
    """Fetch an image from elsewhere and check it.

    Raises:
        InvalidRequest: If the operator does not allow that, the URL is refused or leads to no image.
    """
    if not services.settings.egress.image_urls:
        raise InvalidRequest.of(field, "URLs elsewhere are not allowed here; upload the image first", url)
    call = partial(services.egress.fetch, url, max_bytes=services.settings.api.max_upload_bytes)
    async with services.fetchers:  # also while it waits to be decoded, for it is in memory
        try:
            data = await services.in_thread(call)
        except (EgressRefused, EgressFailed) as error:
            raise InvalidRequest.of(field, error.message, url) from error
        return await check(services, field, unquote(urlsplit(url).path) or "image", BytesIO(data))
