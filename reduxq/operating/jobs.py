"""Jobs on the command line: those of the settings' records server, or of a local stack."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Final

import typer

from reduxq.cli.telling import JsonOption, say
from reduxq.operating.records import DataOption, Told, print_found, records_of, run_there
from shared import transitions
from shared.clock import Clock
from shared.connections import run
from shared.errors import IllegalTransition, InsufficientCredits, NotFound, UnreadableRecord
from shared.ids import JobId
from shared.job_index import EVERYWHERE, Cursor, lease_place, team_scope
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus, WebhookEvent
from shared.programs import Program
from shared.teams import get_team, list_teams
from shared.transitions import Transition

STORE: Final = JobStore(timedelta())  # takes no lease
UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}  #: seconds
WIDTH: Final = 132  #: characters that a list of jobs takes at least
WHY: Final = 40  #: of them for why a job failed
MOST: Final = 1000  #: jobs that a list shows
COLUMNS: Final = ("id", "team", "status", "age", "attempt", "failed", "lane", "TFLOP", "why")

jobs = typer.Typer(no_args_is_help=True, help="Jobs, of the settings' records server or of a local stack.")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,5})([dhms])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is not a number and its unit, as 90s, 10m, 2h or 3d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `jobs list` shows it.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="As `jobs list` shows them.")]
OlderOption = Annotated[
    timedelta | None, typer.Option(parser=_duration, metavar="AGE", help="Accepted before that, as 90s, 10m, 2h, 3d.")
]


@jobs.command("list")
def show_jobs(
    *,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only these; may be given more than once.")] = None,
    older_than: OlderOption = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 50,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List jobs, the newest first."""
    found = run_there(data, _find(team, status or list(JobStatus), older_than, limit))
    print_found(COLUMNS, ((told, _row(told)) for told in found), as_json=as_json, least_width=WIDTH)


@jobs.command("show")
def show_job(job_id: IdArgument, *, as_json: JsonOption = False, data: DataOption = None) -> None:
    """Tell all that is known of a job."""
    told = run_there(data, _look(JobId(job_id)))
    say(told, "\n".join(f"{name:32}  {value}" for name, value in _flat(told)), as_json=as_json)


@jobs.command("cancel")
def cancel_jobs(job_ids: IdsArgument, *, as_json: JsonOption = False, data: DataOption = None) -> None:
    """End jobs; those that have ended stay as they are."""
    _change(data, job_ids, partial(transitions.cancel, now=Clock().now()), as_json=as_json)


@jobs.command("retry")
def retry_jobs(job_ids: IdsArgument, *, as_json: JsonOption = False, data: DataOption = None) -> None:
    """Put failed jobs back into the queue; each is paid for again."""
    _change(data, job_ids, partial(transitions.retry, now=Clock().now()), as_json=as_json)


@jobs.command("redeliver")
def redeliver_jobs(
    job_ids: IdsArgument,
    *,
    event: Annotated[WebhookEvent, typer.Option(help="What to tell.")] = WebhookEvent.FINISHED,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Tell jobs' webhooks once more."""
    _change(data, job_ids, partial(transitions.redeliver, event=event, now=Clock().now()), as_json=as_json)


def _change(data: Path | None, job_ids: list[str], transition: Transition, *, as_json: bool) -> None:
    """Change each job; one that cannot be changed keeps no other from it."""
    refused = False
    with records_of(data) as records:
        for job_id in map(JobId, job_ids):
            try:
                changed = run(records, STORE.update(job_id, transition))
                say({"id": job_id, "status": changed.status}, f"{job_id} {changed.status}", as_json=as_json)
            except (IllegalTransition, InsufficientCredits, NotFound, UnreadableRecord) as error:
                say({"id": job_id, "error": {"code": error.code, "message": error.message}}, "", as_json=as_json)
                typer.echo(f"reduxq: {job_id}: {error.message}", err=True)
                refused = True
    if refused:
        raise typer.Exit(1)


def _find(
    team_name: str | None, statuses: list[JobStatus], older_than: timedelta | None, limit: int
) -> Program[list[Told]]:
    names = {team.id: team.name for team in (yield from list_teams())}
    ids = {name: team_id for team_id, name in names.items()}
    if team_name is not None and team_name not in ids:
        raise NotFound(f"there is no team {team_name!r}")
    scope = team_scope(ids[team_name]) if team_name is not None else EVERYWHERE
    now = Clock().now()
    after = Cursor(int((now - older_than).timestamp() * 1e6), JobId("")) if older_than else None
    found, _ = yield from STORE.page(scope, statuses, limit=limit, after=after)
    return [_told(record, names.get(record.team_id, record.team_id)) for record in found]


def _look(job_id: JobId) -> Program[Told]:
    report = yield from STORE.report(job_id)
    if report is None:
        raise NotFound(f"there is no job {job_id}")
    record = report.record
    lease_ms = yield ("PTTL", lease_place(job_id))
    return _told(record, (yield from get_team(record.team_id)).name) | {
        "lease_seconds": max(0, lease_ms) / 1000 if record.status is JobStatus.RUNNING else None,
        "progress": report.progress and report.progress._asdict(),
        "queue_position": report.queue_position,
        "estimated_seconds": report.estimated_seconds,
    }


def _told(record: JobRecord, team_name: str) -> Told:
    fields = record.model_dump(mode="json", by_alias=True)
    age = (Clock().now() - record.created_at).total_seconds()
    return fields | {"team": team_name, "age_seconds": round(age, 1), "work_teraflops": record.parameters.work}


def _row(told: Told) -> tuple[str, ...]:
    seconds, failure = int(told["age_seconds"]), told["failure"]
    age = next((f"{seconds // size}{unit}" for unit, size in UNITS.items() if seconds >= size), "0s")
    names = ("attempt", "failed_attempts", "lane", "work_teraflops")
    why = shorten(failure["message"], WHY, placeholder="…") if failure else ""
    return told["id"], told["team"], told["status"], age, *(str(told[name]) for name in names), why


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give every value that there is a name of its own; what a client sent cannot steer the terminal."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(part, f"{path}.{name}" if path else f"{name}")
    elif value not in {None, ""}:
        text = str(value)
        yield path, text if text.isprintable() else json.dumps(text)
