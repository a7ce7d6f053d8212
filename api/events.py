"""A job's way to its end as server-sent events.

What counts is the state: an event tells where the job is now, never all that happened, and its id names that state. A
client that comes back, to whichever process, is told where the job is unless it has seen that already.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.onemin_view import ai_record
from api.services import Services
from shared.errors import RecordsUnavailable
from shared.ids import JobId
from shared.job_store import Report
from shared.jobs import JobStatus
from shared.progress import Progress
from shared.teams import get_user

PERIOD: Final = 0.5  #: seconds between two looks at a job
#: Moments in that time at which watchers look, each always at the same: those of a moment are read for in one batch,
#: and no batch keeps other callers waiting.
MOMENTS: Final = 10
LONGEST: Final = 300  #: seconds after which a client must come back, so that a key that was revoked watches no longer
HEARTBEAT: Final = 15  #: seconds of silence after which a comment tells proxies that the connection lives


async def watch(services: Services, job_id: JobId, seen: str) -> AsyncIterator[bytes]:
    """Tell each new state of a job until it ends, is forgotten, the process ends, or :data:`LONGEST` is over.

    Args:
        services: Servers.
        job_id: Which job.
        seen: Id of the event that the client had last.
    """
    loop = asyncio.get_running_loop()
    told_at, phase = loop.time(), hash(job_id) % MOMENTS * PERIOD / MOMENTS
    until = told_at + LONGEST
    async with services.completions.listening(job_id) as woken:
        while not services.completions.closing and loop.time() < until:
            with suppress(RecordsUnavailable):  # it will be back
                found = await services.run(services.jobs.report(job_id))
                if found is None:
                    return
                if (name := name_of(found)) != seen:
                    yield format_sse_event(id=name, event=_event(found), data_str=await _data(services, found))
                    seen, told_at = name, loop.time()
                if found.record.finished:
                    return
            if loop.time() - told_at >= HEARTBEAT:
                yield KEEPALIVE_COMMENT
                told_at = loop.time()
            await _next_look(woken, phase)


def name_of(found: Report) -> str:
    """Return the id of a job's state; while it is the same there is nothing to tell."""
    record = found.record
    at = {
        JobStatus.QUEUED: found.queue_position,
        JobStatus.RUNNING: (sum(found.progress.each) or found.progress.step) if found.progress else 0,
    }.get(record.status, 0)
    return f"{record.attempt}-{record.status}-{at}"


def _event(found: Report) -> str:
    return "finished" if found.record.finished else str(found.record.status)


async def _data(services: Services, found: Report) -> str:
    """Return an event's data as JSON."""
    record = found.record
    if record.finished:
        user = await services.run(get_user(record.user_id))
        return json.dumps(ai_record(found, user, services.objects))
    told: dict[str, Any] = {"estimatedSeconds": found.estimated_seconds}
    if record.status is JobStatus.QUEUED:
        return json.dumps({"queuePosition": found.queue_position} | told)
    progress = found.progress or Progress(0, record.parameters.num_inference_steps)
    return json.dumps({"attempt": record.attempt, **progress._asdict()} | told)


async def _next_look(woken: asyncio.Event, phase: float) -> None:
    """Wait for the end, or for the phase of the period that is this job's."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(((asyncio.get_running_loop().time() - phase) // PERIOD + 1) * PERIOD + phase):
            await woken.wait()
    woken.clear()
