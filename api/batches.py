"""Batches: many jobs of one request, taken in line by line, unseen until all of it stands."""

import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal
from uuid import uuid4

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import Caller
from api.batch_requests import Checked, Header, check_line, header_of, numbered
from api.batch_view import ITEMS, batch_answer, item_shown
from api.dependencies import ServicesDep
from api.fields import Offset, PageSize, WaitSeconds
from api.onemin_requests import checked_webhook
from api.repeats import once_of
from api.services import Services
from api.sources import key_there, look_up
from shared import batch_intake, batch_store
from shared.assets import Asset
from shared.batch_intake import Staged
from shared.batch_store import BatchReport
from shared.batches import Batch, Line
from shared.cost import in_credits
from shared.errors import InvalidRequest, Misconfigured, NotFound, RecordsUnavailable, ReduxqError, Unavailable
from shared.idempotency import fingerprint
from shared.ids import AssetKey, BatchId, JobId
from shared.jobs import BatchEvent, Failure, Parameters
from shared.keys import ApiKey
from shared.programs import together

router = APIRouter(prefix="/api/batches", tags=["1min.ai"])

ITEM_BYTES: Final = 500  #: of the records server that an item takes besides its line, with what becomes of it
TOGETHER: Final = 100  #: lines that are checked and stored in one go; they hold others up for some milliseconds


@dataclass
class Manifest:
    """A batch as far as it was read."""

    services: Services
    caller: ApiKey
    id: BatchId = field(default_factory=lambda: BatchId(str(uuid4())))
    header: Header | None = None
    total: int = 0  #: items
    price: int = 0  #: credits
    work: int = 0  #: TFLOP
    size_bytes: int = 0

    async def take(self, lines: dict[int, bytes]) -> None:
        """Check lines and store them where nobody sees them."""
        if not self.total:
            first = min(lines)
            lines[first] = lines[first].removeprefix(BOM_UTF8)
            if header := header_of(first, lines[first]):
                self.header = header
                del lines[first]
        self.total += len(lines)
        if self.total > (most := self.services.settings.api.max_batch_lines):
            raise InvalidRequest(f"body: has more than the {most} items that are allowed")
        defaults = self.header.defaults if self.header else {}
        checked = {number: check_line(number, text, defaults) for number, text in lines.items()}
        names = sorted({found.prompt.imageUrl for found in checked.values() if found.prompt})
        look_ups = [look_up(self.services, self.caller, name) for name in names]
        assets = dict(zip(names, await self.services.run(together(look_ups)), strict=True))
        staged = {number: self._staged(found, assets) for number, found in checked.items()}
        await self.services.run(batch_intake.stage(self.id, staged))

    def _staged(self, found: Checked, assets: dict[str, Asset | None]) -> Staged:
        try:
            staged = Staged(Line(custom_id=found.custom_id, prompt=self._asked(found, assets)))
        except ReduxqError as error:
            staged = Staged(Line(custom_id=found.custom_id), Failure.of(error))
        self.size_bytes += ITEM_BYTES + sum(len(part.model_dump_json()) for part in staged if part)
        return staged

    def _asked(self, found: Checked, assets: dict[str, Asset | None]) -> str:
        """Return what an item asks for, in the words that are known, and add its price and work.

        Raises:
            InvalidRequest: Why it cannot be.
        """
        if found.prompt is None:
            raise found.error or InvalidRequest
        name, chosen = found.prompt.imageUrl, found.prompt.parameters
        key_there(self.services, name, assets[name])
        parameters = Parameters(**chosen | {"source": AssetKey(""), "seed": chosen["seed"] or 0})
        self.price += in_credits(parameters.usd, self.services.settings.teams.credits_per_usd)
        self.work += parameters.work
        return found.prompt.model_dump_json(exclude_unset=True)

    def batch(self, request_id: str) -> Batch:
        """Return the record of the whole."""
        now, header = self.services.clock.now(), self.header or Header()
        return Batch(
            id=self.id,
            team_id=self.caller.team_id,
            caller=self.caller.model_copy(update={"digest": ""}),
            request_id=request_id,
            metadata=json.dumps(header.metadata),
            low_priority=header.priority == "low",
            webhook=checked_webhook(header.webhook, (BatchEvent.FINISHED,), self.services.egress),
            work=self.work,
            size_bytes=self.size_bytes + len(json.dumps(header.metadata)),
            created_at=now,
            updated_at=now,
        )


@router.post("")
async def create_batch(request: Request, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Accept a job for each line of the body; a first line with ``defaults`` says what holds for all.

    A line that cannot be becomes an item that failed, and the others go on.
    """
    manifest = Manifest(services, caller)
    try:
        accepted = await _accept(request, manifest)
    except RecordsUnavailable:  # it may have been accepted all the same
        raise
    except Exception:
        with suppress(Unavailable):
            await services.run(batch_intake.unstage(manifest.id))
        raise
    return await _shown(services, caller, accepted)


async def _accept(request: Request, manifest: Manifest) -> BatchId:
    services, digest = manifest.services, sha256()
    async for lines in _groups(request):
        for line in lines.values():
            digest.update(line + b"\n")
        await manifest.take(lines)
    if not manifest.total:
        raise InvalidRequest("body: must have at least one item, a JSON object on a line of its own")
    once = once_of(request, manifest.caller, fingerprint("batches", digest.hexdigest()))
    batch, limits = manifest.batch(request.state.request_id), services.settings.teams
    return await services.run(batch_intake.accept(batch, manifest.total, manifest.price, limits=limits, once=once))


@router.get("")
async def list_batches(
    caller: Caller, services: ServicesDep, cursor: Offset | None = None, limit: PageSize = 20
) -> dict[str, Any]:
    """List the team's batches, newest first; ``nextCursor`` as ``cursor`` leads on, null means there are no more."""
    found = await services.run(batch_store.page(caller.team_id, limit + 1, cursor))
    reports = await services.run(together([batch_store.report(batch_id) for batch_id, _ in found[:limit]]))
    shown = [batch_answer(report, services.objects)["batch"] for report in reports if report]
    return {"batches": shown, "nextCursor": str(found[limit - 1][1]) if len(found) > limit else None}


@router.get("/{uuid}")
async def read_batch(uuid: str, caller: Caller, services: ServicesDep, wait: WaitSeconds = 0) -> dict[str, Any]:
    """Return a batch, after so many seconds or at its end; an unknown one is null."""
    try:
        found = await _report(services, caller, BatchId(uuid))
        if wait and not found.batch.finished_at:
            ended = partial(_has_ended, services, found.batch.id)
            await services.completions.wait(JobId(uuid), ended, timedelta(seconds=wait))
            found = await _report(services, caller, BatchId(uuid))
    except NotFound:
        return {"batch": None}
    return batch_answer(found, services.objects)


@router.get("/{uuid}/items")
async def list_items(
    uuid: str,
    caller: Caller,
    services: ServicesDep,
    *,
    status: Literal["WAITING", "PROCESSING", "SUCCESS", "FAILURE", "CANCELED"] | None = None,
    cursor: Offset = 0,
    limit: PageSize = 100,
) -> dict[str, Any]:
    """List a batch's items by line, with their jobs' ids and errors."""
    batch = (await _report(services, caller, BatchId(uuid))).batch
    chosen = [state for state, word in ITEMS.items() if status in {word, None}]
    found = await services.run(batch_store.entries(batch.id, chosen, limit=limit + 1, after=cursor))
    more = str(found[limit - 1].number) if len(found) > limit else None
    return {"items": [item_shown(entry) for entry in found[:limit]], "nextCursor": more}


@router.post("/{uuid}/cancel")
async def cancel_batch(uuid: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Cancel all items that have not ended; a batch that has ended stays as it is."""
    batch = (await _report(services, caller, BatchId(uuid))).batch
    await services.run(batch_store.cancel(batch.id, services.clock.now()))
    return await _shown(services, caller, batch.id)


@router.post("/{uuid}/retry")
async def retry_batch(uuid: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Let items that failed or were canceled wait again, each for another job."""
    batch = (await _report(services, caller, BatchId(uuid))).batch
    await services.run(batch_store.retry(batch.id, services.clock.now()))
    return await _shown(services, caller, batch.id)


@router.delete("/{uuid}")
async def remove_batch(uuid: str, caller: Caller, services: ServicesDep) -> dict[str, Any]:
    """Delete what is known of a batch that has ended, and its result manifest; its jobs' results stay."""
    batch = (await _report(services, caller, BatchId(uuid))).batch
    if not batch.finished_at:
        raise InvalidRequest.of("uuid", f"has not ended; POST /api/batches/{uuid}/cancel first", uuid)
    if not await services.run(batch_store.forget(batch, services.clock.now())):
        return await remove_batch(uuid, caller, services)
    if batch.results_key:
        with suppress(Unavailable, Misconfigured):  # else it is the sweeper's
            await services.in_thread(partial(services.objects.delete, batch.results_key))
    return {"batch": None}


async def _groups(request: Request) -> AsyncIterator[dict[int, bytes]]:
    """Give the body's lines by their numbers, some at a time."""
    group: dict[int, bytes] = {}
    async for number, line in numbered(request.stream()):
        group[number] = line
        if len(group) == TOGETHER:
            yield group
            group = {}
    if group:
        yield group


async def _report(services: Services, caller: ApiKey, batch_id: BatchId) -> BatchReport:
    """Return a batch of the caller's team.

    Raises:
        NotFound: If there is none; another team's is told as one that does not exist.
    """
    found = await services.run(batch_store.report(batch_id))
    if found is None or found.batch.team_id != caller.team_id:
        raise NotFound(f"there is no batch {batch_id}")
    return found


async def _has_ended(services: Services, batch_id: BatchId) -> bool:
    batch = await services.run(batch_store.get(batch_id))
    return batch is None or batch.finished_at is not None


async def _shown(services: Services, caller: ApiKey, batch_id: BatchId) -> dict[str, Any]:
    return batch_answer(await _report(services, caller, batch_id), services.objects)
