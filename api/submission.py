"""The life of a submission, the same for every facade: what was asked becomes an accepted job."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import structlog

from api.metrics import ACCEPTED
from api.services import Services
from api.sources import SourceContext, Wanted
from shared import idempotency
from shared.cost import in_credits
from shared.errors import InvalidRequest, NotFound, RecordsUnavailable
from shared.idempotency import Once
from shared.ids import JobId
from shared.job_store import Report
from shared.jobs import SEEDS, Echo, Item, JobRecord, Lane, Parameters, Webhook
from shared.keys import ApiKey
from shared.limits import Rate
from shared.log import about
from shared.programs import Program, together
from shared.teams import TeamUser, get_user

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Draft:
    """A checked request, in our own words."""

    parameters: dict[str, Any]  #: of :class:`Parameters`, without source; a missing seed is drawn
    echo: Echo
    wait: timedelta | None = None  #: how long the caller waits for the end; None: not at all
    low_priority: bool = False
    max_queue: timedelta | None = None  #: None: the operator's limit; more than that is as much as that
    max_run: timedelta | None = None
    webhook: Webhook | None = None
    item: Item | None = None  #: of a batch, that must be waiting


class Accepted(NamedTuple):
    """A job that stands."""

    job_id: JobId
    #: As it was accepted, and its user as that left it; None if the same request made it earlier.
    report: Report | None = None
    payer: TeamUser | None = None


async def submit(
    services: Services,
    caller: ApiKey,
    draft: Draft,
    source: Wanted,
    *,
    once: Once | None,
    first: Sequence[Program[Any]] = (),
    rate: Rate | None = None,
) -> Accepted:
    """Accept a job, or find the one that the same request made earlier.

    Args:
        services: Servers and settings.
        caller: Who pays.
        draft: What is asked for.
        source: Where its image comes from.
        once: What makes the request the same when it is sent again.
        first: Checks that are asked along with what must be known, and come before it if they raise.
        rate: Counts a request that made a job.

    Raises:
        InvalidRequest: If the source is no image of the caller's team, or the Idempotency-Key was used otherwise.
        InsufficientCredits, TooManyRequests: If the team may not have one more job.
        RecordsUnavailable: If the records server does not answer; nothing was accepted, as far as we were told.
    """
    told: list[Program[Any]] = [*first, source.look, idempotency.find(once)]
    *_, asset, earlier = await services.run(together(told))
    if once and earlier:
        if await _counts(services, JobId(earlier), once.ended):
            return Accepted(JobId(earlier))
        once = once._replace(repeats=False)
    accept = partial(services.jobs.accept, most_open=services.settings.teams.open_jobs, once=once, rate=rate)
    return await _accept(services, caller, draft, source.come(asset), accept)


async def outcome(
    services: Services, caller: ApiKey, job: Accepted, wait: timedelta | None
) -> tuple[Report, TeamUser | None]:
    """Wait for an accepted job's end, if the caller does; return it as it is then, and its user if that was read too.

    A job that was accepted just now is reported whatever happens to the servers: an error would make the client ask,
    and pay, twice.

    Raises:
        NotFound: If the earlier job is gone.
        RecordsUnavailable: If it is an earlier one and the records server does not answer.
    """
    if job.report and not wait:
        return job.report, job.payer
    record: JobRecord | None = None
    user: TeamUser | None = None

    async def has_ended() -> bool:
        nonlocal record, user
        told: list[Program[Any]] = [services.jobs.get(job.job_id), get_user(caller.user_id)]
        record, user = await services.run(together(told))
        return record is None or record.finished

    try:
        if wait:
            await services.completions.wait(job.job_id, has_ended, wait)
        if record and record.finished and record.team_id == caller.team_id:
            return Report(record), user if record.user_id == caller.user_id else None
        return await report(services, caller, job.job_id), None
    except RecordsUnavailable:
        if job.report is None:
            raise
        return job.report, job.payer


async def report(services: Services, caller: ApiKey, job_id: JobId) -> Report:
    """Return a job of the caller's team.

    Raises:
        NotFound: If there is none; another team's is told as one that does not exist.
    """
    found = await services.run(services.jobs.report(job_id))
    if found is None or found.record.team_id != caller.team_id:
        raise NotFound(f"there is no job {job_id}")
    return found


async def _accept(
    services: Services,
    caller: ApiKey,
    draft: Draft,
    source: SourceContext,
    accept: Callable[[JobRecord], Program[JobId]],
) -> Accepted:
    if draft.parameters.get("disable_safety_checker") and not services.settings.api.allow_unchecked:
        what = "must be false: this service checks every variation"
        raise InvalidRequest.of("disable_safety_checker", what, value=True)
    async with source as own:
        seed = draft.parameters.get("seed")
        chosen = {**draft.parameters, "source": own.key, "seed": secrets.randbelow(SEEDS) if seed is None else seed}
        record = _record(services, caller, draft, Parameters(**chosen), owns_source=own.owned)
        told: list[Program[Any]] = [accept(record), services.jobs.standing(record), get_user(caller.user_id)]
        job_id, *as_accepted = await services.run(together(told))
        own.overtaken = job_id != record.id
    if own.overtaken:
        return Accepted(job_id)
    ACCEPTED.inc()
    log.info("accepted", **about(record))
    return Accepted(job_id, *as_accepted)


def _record(
    services: Services, caller: ApiKey, draft: Draft, parameters: Parameters, *, owns_source: bool
) -> JobRecord:
    """Return the record of a new job."""
    limits = services.settings.jobs
    lane = Lane.PREVIEW if parameters.work <= limits.preview_teraflops else Lane.NORMAL
    return JobRecord(
        id=JobId(str(uuid4())),
        team_id=caller.team_id,
        user_id=caller.user_id,
        parameters=parameters,
        echo=draft.echo,
        owns_source=owns_source,
        price=in_credits(parameters.usd, services.settings.teams.credits_per_usd),
        lane=Lane.LOW if draft.low_priority else lane,
        max_queue=min(draft.max_queue or limits.max_queue_seconds, limits.max_queue_seconds),
        max_run=min(draft.max_run or limits.max_run_seconds, limits.max_run_seconds),
        webhook=draft.webhook,
        item=draft.item,
        created_at=services.clock.now(),
    )


async def _counts(services: Services, job_id: JobId, ended: timedelta | None) -> bool:
    """Say whether an earlier job is the one that a request asks for again."""
    record = await services.run(services.jobs.get(job_id))
    if ended is None or record is None or record.finished_at is None:
        return record is not None
    return services.clock.now() - record.finished_at < ended
