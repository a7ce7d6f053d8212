"""The life of a submission, the same for every facade: what was asked becomes an accepted job."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from api.services import Services
from api.uploads import require_source
from shared.errors import NotFound, RecordsUnavailable
from shared.ids import JobId
from shared.job_store import Report
from shared.jobs import SEEDS, Echo, JobRecord, Parameters
from shared.keys import ApiKey


@dataclass(frozen=True)
class Draft:
    """A checked request, in our own words."""

    source: str  #: asset key, location or presigned link
    source_field: str  #: what the facade calls it
    parameters: dict[str, Any]  #: of :class:`Parameters`, without source; a missing seed is drawn
    echo: Echo
    wait: bool  #: the caller waits for the end


async def submit(services: Services, caller: ApiKey, draft: Draft) -> Report:
    """Accept a job, and wait for its end if the caller does.

    Once the job is accepted this returns its record, whatever happens to the servers: an error would make the client
    ask, and pay, twice.

    Raises:
        InvalidRequest: If the source is no image of the caller's team.
        RecordsUnavailable: If the records server does not answer; nothing was accepted, as far as we were told.
    """
    source = await require_source(services, caller, draft.source, draft.source_field)
    seed = draft.parameters.get("seed")
    chosen = {**draft.parameters, "source": source, "seed": secrets.randbelow(SEEDS) if seed is None else seed}
    record = JobRecord(
        id=JobId(str(uuid4())),
        team_id=caller.team_id,
        user_id=caller.user_id,
        parameters=Parameters(**chosen),
        echo=draft.echo,
        created_at=datetime.now(UTC),
    )
    await services.run(services.jobs.accept(record))
    try:
        if draft.wait:
            ended = partial(_has_ended, services, record.id)
            await services.completions.wait(record.id, ended, services.settings.api.wait_seconds)
        return await report(services, caller, record.id)
    except RecordsUnavailable:
        return Report(record, progress=None, queue_position=None)


async def report(services: Services, caller: ApiKey, job_id: JobId) -> Report:
    """Return a job of the caller's team.

    Raises:
        NotFound: If there is none; another team's is told as one that does not exist.
    """
    found = await services.run(services.jobs.report(job_id))
    if found is None or found.record.team_id != caller.team_id:
        raise NotFound(f"there is no job {job_id}")
    return found


async def _has_ended(services: Services, job_id: JobId) -> bool:
    record = await services.run(services.jobs.get(job_id))
    return record is None or record.finished
