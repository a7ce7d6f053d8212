"""Feeds batches: keeps some of each one's items open as jobs, and ends those whose items have all ended.

Only the leading dispatcher feeds, though two would do no harm: an item becomes a job in one commit, which asks that it
waits still.
"""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import ceil
from secrets import token_hex
from tempfile import TemporaryFile
from threading import Event
from typing import Any, Final

import structlog

from api.batch_requests import complete
from api.batch_view import manifest_lines
from api.onemin_requests import PromptObject
from api.onemin_view import MODEL, TYPE
from api.services import Services, connected
from api.sources import named_source
from api.submission import Draft, submit
from shared import backlog, batch_store, presence, transitions
from shared.backlog import Backlog
from shared.batch_store import BatchReport, Entry
from shared.batches import STATES, Batch, Lot
from shared.errors import (
    IllegalTransition,
    InsufficientCredits,
    InvalidRequest,
    Misconfigured,
    ReduxqError,
    TooManyRequests,
    Unavailable,
    UnreadableRecord,
)
from shared.ids import AssetKey, BatchId, TeamId
from shared.job_index import open_jobs
from shared.jobs import Echo, Item, JobStatus
from shared.programs import Program, together
from shared.settings import Settings

log = structlog.get_logger(__name__)

PAUSE: Final = 0.5  #: seconds between two looks
GATHER: Final = 0.02  #: seconds, if the one before found something to do
LONGEST_PAUSE: Final = 8.0  #: seconds; to which pauses grow while something keeps items waiting
#: Open jobs of all batches: what the workers do in this time, so that none of them ages before those of others.
AHEAD: Final = timedelta(minutes=1)
LEAST: Final = 16  #: of them, whatever the workers tell
MOST: Final = 256
DECODERS: Final = 1  #: images decoded at the same time: the memory of a dispatcher is small
TOGETHER: Final = 32  #: items that become jobs at a time
PAGE: Final = 500  #: items of a manifest that are read and signed in one go


class Feeder:
    """Tends the batches that have not ended, each beside the others: slow downloads of one delay no other."""

    def __init__(self, settings: Settings) -> None:
        teams = settings.teams.model_copy(update={"open_jobs": max(1, settings.teams.open_jobs // 2)})
        api = settings.api.model_copy(update={"decoders": DECODERS})
        self.settings = settings.model_copy(update={"teams": teams, "api": api})
        self._tended: set[BatchId] = set()

    def run(self, stop: Event, name: str) -> None:
        """Feed until told to stop, while the dispatcher of that name leads."""
        asyncio.run(self._run(stop, name))

    async def _run(self, stop: Event, name: str) -> None:
        async with connected(self.settings) as services:
            await self.feed(services, stop, name)

    async def feed(self, services: Services, stop: Event, name: str) -> None:
        """As :meth:`run`, with these services."""
        while not stop.is_set():
            try:
                leads = await services.run(presence.leader()) == name
                living = set(await services.run(batch_store.living())) if leads else set()
                for batch_id in sorted(living - self._tended):
                    self._tended.add(batch_id)
                    services.beside(partial(self._tend, services, batch_id, stop, name))
            except Unavailable as error:
                log.warning("waiting for a server", error=error.message)
            except Exception:
                log.exception("cannot look for batches")
            await services.sleep(PAUSE)

    async def _tend(self, services: Services, batch_id: BatchId, stop: Event, name: str) -> None:
        """Do for one batch what there is to do until it has ended, or is no longer this dispatcher's."""
        pause: float | None = 0.0
        while pause is not None and not stop.is_set():
            await services.sleep(pause)
            pause = min(2 * max(pause, PAUSE), LONGEST_PAUSE)
            try:
                pause = await _look(services, batch_id, name)
            except (Unavailable, TooManyRequests, Misconfigured) as error:
                log.warning("a batch waits", batch=batch_id, reason=error.message)
            except Exception:
                log.exception("cannot tend a batch", batch=batch_id)
        self._tended.discard(batch_id)


async def _look(services: Services, batch_id: BatchId, name: str) -> float | None:
    """Do for one batch what there is to do now.

    Returns:
        The seconds until it is worth another look; None if it needs none, or none of this dispatcher.

    Raises:
        Exception: Whatever keeps the batch waiting.
    """
    asked: list[Program[Any]] = [
        presence.leader(),
        batch_store.report(batch_id),
        batch_store.living_count(),
        backlog.get(),
    ]
    leader, report, living, workers = await services.run(together(asked))
    if leader != name or report is None or report.batch.finished_at:
        return None
    if not report.counts.open:
        await _finish(services, report.batch)
    elif report.batch.canceled_at:
        await _cancel(services, batch_id)
    elif not await _feed(services, report, window(report, workers or Backlog(), living) - report.counts.jobs):
        return PAUSE
    return GATHER


async def _finish(services: Services, batch: Batch) -> None:
    """Store the result manifest, under a key of its own, and end the batch."""
    key = AssetKey(f"{services.settings.storage.prefix}batches/{batch.id}_{token_hex(4)}.jsonl")
    ending = await services.run(batch_store.plan_end(batch, key, services.clock.now()))
    if ending is None:
        return
    with TemporaryFile() as file:
        after = 0
        while page := await services.run(batch_store.entries(batch.id, STATES, limit=PAGE, after=after)):
            file.write(await services.in_thread(partial(manifest_lines, page, services.objects)))
            after = page[-1].number
        file.seek(0)
        await services.in_thread(partial(services.objects.put, key, file, "application/jsonl"))
    if await services.run(batch_store.finish(batch.id, ending.version, services.clock.now())):
        log.info("ended a batch", batch=batch.id)


def window(report: BatchReport, workers: Backlog, living: int) -> int:
    """Return how many jobs of a batch may be open.

    Args:
        report: The batch, which knows how much work an item is.
        workers: What they hold and how fast they are; they must not wait for the feeder.
        living: Batches that share this.
    """
    items = sum(report.counts.of.values()) - report.counts.of[Lot.INVALID]
    ahead = (workers.speed or workers.speed_of_one) * AHEAD.total_seconds() * items / max(1, report.batch.work)
    return ceil(max(LEAST, 2 * workers.slots, min(MOST, ahead)) / living)


async def _feed(services: Services, report: BatchReport, room: int) -> bool:
    """Let as many items become jobs as find room; return whether there were any.

    Raises:
        Exception: What keeps one of them waiting.
    """
    # Here, for an item that the team has no room for would have its image fetched first, again and again.
    room = min(room, services.settings.teams.open_jobs - await services.run(_open(report.batch.team_id)))
    waiting = batch_store.entries(report.batch.id, [Lot.WAITING], limit=max(0, room), after=0)
    entries = await services.run(waiting) if room > 0 else []
    for first in range(0, len(entries), TOGETHER):
        group = entries[first : first + TOGETHER]
        for error in await services.gather([partial(_submit, services, report.batch, entry) for entry in group]):
            if error:
                raise error
    return bool(entries)


def _open(team_id: TeamId) -> Program[int]:
    return int((yield ("ZCARD", open_jobs(team_id))))


async def _submit(services: Services, batch: Batch, entry: Entry) -> None:
    """Let an item become a job; it fails at once if its client is at fault, and else after some tries.

    Raises:
        Unavailable, Misconfigured, TooManyRequests: If it must wait.
        Exception: Whatever else goes wrong.
    """
    item = Item(batch_id=batch.id, line=entry.number)
    try:
        sent = complete(json.loads(entry.line.prompt), json.loads(batch.defaults))
        prompt = PromptObject.parse(sent)
        echo = Echo(type=TYPE, model=MODEL, prompt_object=json.dumps(sent), request_id=batch.request_id)
        draft = Draft(prompt.parameters, echo, low_priority=batch.low_priority, item=item)
        source = named_source(services, batch.caller, prompt.imageUrl, None)
        with suppress(IllegalTransition):  # canceled meanwhile, or another dispatcher was first
            await submit(services, batch.caller, draft, source, once=None)
    except (InvalidRequest, InsufficientCredits) as refused:
        await services.run(batch_store.fail_item(item, refused))
    except (Unavailable, Misconfigured, TooManyRequests):
        raise
    except Exception as error:
        error.add_note(f"line {entry.number} cannot become a job")
        failed, limit = entry.outcome.failed_attempts + 1, services.settings.jobs.max_failed_attempts
        unknown = ReduxqError("an unexpected error; the dispatcher's log has it")
        give_up = failed >= limit
        noted = batch_store.fail_item(item, unknown) if give_up else batch_store.fail_attempt(item, failed)
        await services.run(noted)
        raise


async def _cancel(services: Services, batch_id: BatchId) -> None:
    """Cancel a batch's open jobs."""
    states = (JobStatus.QUEUED, JobStatus.RUNNING)
    found = await services.run(batch_store.entries(batch_id, states, limit=PAGE, after=0))
    end = partial(transitions.cancel, now=services.clock.now())
    jobs = {entry.outcome.record_id: entry for entry in found if entry.outcome.record_id}
    ending = [services.jobs.or_set_aside(job_id, services.jobs.update(job_id, end)) for job_id in jobs]
    for entry, ended in zip(jobs.values(), await services.run(together(ending)), strict=True):
        if ended is None:  # nobody can end it, and the batch is to end
            lost = UnreadableRecord(f"the record of job {entry.outcome.record_id} is gone or cannot be read")
            await services.run(batch_store.fail_item(Item(batch_id=batch_id, line=entry.number), lost, entry.state))
