"""Feeds batches: keeps some of each one's items open as jobs, and ends those whose items have all ended.

Only the leading dispatcher feeds, though two would do no harm: an item becomes a job in one commit, which asks that it
waits still.
"""

import asyncio
import json
from datetime import timedelta
from functools import partial
from math import ceil
from tempfile import TemporaryFile
from threading import Event
from typing import Final

import structlog

from api.batch_requests import complete
from api.batch_view import manifest_lines, results_key
from api.onemin_requests import parse_prompt
from api.onemin_view import MODEL, TYPE
from api.services import Services, connected
from api.sources import named_source
from api.submission import Draft, submit
from shared import backlog, batch_store, dispatch_store, transitions
from shared.backlog import Backlog
from shared.batch_store import BatchReport, Entry
from shared.batches import STATES, Batch, Lot
from shared.errors import IllegalTransition, ReduxqError, TooManyRequests, Unavailable, UnreadableRecord
from shared.ids import BatchId, TeamId
from shared.job_index import open_jobs
from shared.jobs import Echo, Item, JobStatus
from shared.programs import Program, together
from shared.settings import Settings

log = structlog.get_logger(__name__)

PAUSE: Final = 0.5  #: seconds between two looks
GATHER: Final = 0.02  #: seconds, if the one before found something to do
#: Open jobs of all batches: what the workers do in this time, so that none of them ages before those of others.
AHEAD: Final = timedelta(minutes=1)
LEAST: Final = 16  #: of them, whatever the workers tell
MOST: Final = 256
DECODERS: Final = 1  #: images decoded at the same time: the memory of a dispatcher is small
TOGETHER: Final = 32  #: items that become jobs at a time
PAGE: Final = 500  #: items of a manifest that are read and signed in one go


class Feeder:
    """Tends the batches that have not ended, each in a task of its own: slow downloads of one delay no other."""

    def __init__(self, settings: Settings) -> None:
        teams = settings.teams.model_copy(update={"open_jobs": max(1, settings.teams.open_jobs // 2)})
        api = settings.api.model_copy(update={"decoders": DECODERS})
        self._settings = settings.model_copy(update={"teams": teams, "api": api})
        self._tasks: dict[BatchId, asyncio.Task[bool]] = {}

    def run(self, stop: Event, name: str) -> None:
        """Feed until told to stop, while the dispatcher of that name leads."""
        asyncio.run(self._run(stop, name))

    async def _run(self, stop: Event, name: str) -> None:
        async with connected(self._settings) as services:
            pause = PAUSE
            while not await services.in_thread(partial(services.clock.wait, stop, pause)):
                try:
                    pause = GATHER if await self._round(services, name) else PAUSE
                except Unavailable as error:
                    log.warning("waiting for a server", error=error.message)
                    pause = PAUSE
                except Exception:
                    log.exception("a round failed")
                    pause = PAUSE
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _round(self, services: Services, name: str) -> bool:
        """Tend all batches that nobody tends; return whether there was something to do."""
        if await services.run(dispatch_store.leader()) == name:
            living = await services.run(batch_store.living())
            workers = await services.run(backlog.get()) or Backlog()
            for batch_id in living:
                if batch_id not in self._tasks:
                    tending = self._tend(services, batch_id, workers, len(living))
                    self._tasks[batch_id] = asyncio.create_task(tending)
        if not self._tasks:
            return False
        done, _ = await asyncio.wait(self._tasks.values(), timeout=PAUSE)
        self._tasks = {batch_id: task for batch_id, task in self._tasks.items() if task not in done}
        moved = [task.result() for task in done]
        return any(moved)

    async def _tend(self, services: Services, batch_id: BatchId, workers: Backlog, living: int) -> bool:
        """Do for one batch what there is to do now; return whether that was anything."""
        report = await services.run(batch_store.report(batch_id))
        if report is None:
            return False
        if not report.counts.open:
            await self._finish(services, report.batch)
            return True
        if report.batch.canceled_at:
            await _cancel(services, batch_id)
            return True
        return await _feed(services, report, window(report, workers, living) - report.counts.jobs)

    async def _finish(self, services: Services, batch: Batch) -> None:
        """Store the result manifest and end the batch."""
        with TemporaryFile() as file:
            after = 0
            while page := await services.run(batch_store.entries(batch.id, STATES, limit=PAGE, after=after)):
                file.write(await services.in_thread(partial(manifest_lines, page, services.objects)))
                after = page[-1].number
            file.seek(0)
            key = results_key(batch, self._settings.storage.prefix)
            await services.in_thread(partial(services.objects.put, key, file, "application/jsonl"))
        if await services.run(batch_store.finish(batch.id, batch.version, services.clock.now())):
            log.info("ended a batch", batch=batch.id)


def window(report: BatchReport, workers: Backlog, living: int) -> int:
    """Return how many jobs of a batch may be open.

    Args:
        report: The batch, which knows how much work an item is.
        workers: What they hold and how fast they are; they must not wait for the feeder.
        living: Batches that share this.
    """
    items = sum(report.counts.of.values()) - report.counts.of[Lot.INVALID]
    ahead = workers.speed * AHEAD.total_seconds() * items / max(1, report.batch.work)
    return ceil(max(LEAST, 2 * workers.slots, min(MOST, ahead)) / living)


async def _feed(services: Services, report: BatchReport, room: int) -> bool:
    """Let as many items become jobs as find room."""
    # Here, for an item that the team has no room for would have its image fetched first, again and again.
    room = min(room, services.settings.teams.open_jobs - await services.run(_open(report.batch.team_id)))
    waiting = batch_store.entries(report.batch.id, [Lot.WAITING], limit=max(0, room), after=0)
    entries = await services.run(waiting) if room > 0 else []
    for first in range(0, len(entries), TOGETHER):
        group = entries[first : first + TOGETHER]
        if not all(await asyncio.gather(*(_submit(services, report.batch, entry) for entry in group))):
            return False
    return bool(entries)


def _open(team_id: TeamId) -> Program[int]:
    return int((yield ("ZCARD", open_jobs(team_id))))


async def _submit(services: Services, batch: Batch, entry: Entry) -> bool:
    """Let an item become a job; return whether the next ones may try, too."""
    item = Item(batch_id=batch.id, line=entry.number)
    error: ReduxqError
    try:
        sent = complete(json.loads(entry.line.prompt), json.loads(batch.defaults))
        prompt = parse_prompt(sent)
        echo = Echo(type=TYPE, model=MODEL, prompt_object=json.dumps(sent), request_id=batch.request_id)
        draft = Draft(prompt.parameters, echo, low_priority=batch.low_priority, item=item)
        await submit(
            services, batch.caller, draft, named_source(services, batch.caller, prompt.imageUrl, None), once=None
        )
    except IllegalTransition:  # canceled meanwhile, or another dispatcher was first
        return True
    except (Unavailable, TooManyRequests):
        return False
    except ReduxqError as refused:
        error = refused
    except Exception:
        log.exception("an item cannot become a job", batch=batch.id, line=entry.number)
        error = ReduxqError("an unexpected error; the dispatcher's log has it")
    else:
        return True
    await services.run(batch_store.fail_item(item, error))
    return True


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
