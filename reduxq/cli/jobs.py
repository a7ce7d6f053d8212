"""Commands about single jobs."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from time import sleep
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from reduxq.cli import options as of
from reduxq.cli.parallel import side_by_side
from reduxq.cli.telling import JsonOption, Line, Teller
from reduxq.client import Client, Options
from reduxq.errors import ReduxqError, TimedOut, Unauthorized
from reduxq.job import Job

jobs = typer.Typer()

LOOK: Final = 2.0  #: seconds between two looks of `watch`, a sixth of what a key may ask
WIDTH: Final = 110  #: characters that a list of jobs takes at least
NAMED: Final = 8  #: characters of a job's id that make its files' names differ from other jobs'


class Acted(NamedTuple):
    """What came of a command about a job."""

    job: Job
    printed: list[str]
    files: list[str] | None = None  #: that were written; None if none were to be


Ids = Annotated[list[str], typer.Argument(metavar="ID", help="As `submit` printed them.")]
Out = Annotated[Path, typer.Option(help="Folder for the variations.")]
Status = Literal["PROCESSING", "SUCCESS", "FAILURE"]


@jobs.command()
def submit(  # noqa: PLR0913  options
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, https URLs or asset keys.")],
    *,
    num_outputs: of.NumOutputs = None,
    aspect_ratio: of.AspectRatio = None,
    megapixels: of.Megapixels = None,
    num_inference_steps: of.Steps = None,
    seed: of.Seed = None,
    format: of.Format = None,  # noqa: A002  its name everywhere
    output_quality: of.Quality = None,
    priority: of.Priority = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print links.")] = False,
    out: Annotated[Path | None, typer.Option(help="Wait, and write the variations into this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for variations of images; print the jobs' ids, or with --wait links, or with --out files."""
    chosen = of.given(locals(), Options.__annotations__)

    def vary(client: Client, image: str, line: Line) -> Acted:
        job = client.variations.create(image, **chosen)
        line.job(job)
        if not (wait or out):
            return Acted(job, [job.uuid])
        _follow(job, line)
        stem = PurePosixPath(urlsplit(image).path).stem
        return _written(job, out, f"{stem}-{job.uuid[:NAMED]}") if out else Acted(job, job.links())

    _each(images, vary, as_json=as_json)


@jobs.command()
def status(ids: Ids, *, as_json: JsonOption = False) -> None:
    """Say how jobs are."""
    _each(ids, lambda client, uuid, _: _described(client.jobs.get(uuid)), as_json=as_json, judge=False)


@jobs.command()
def wait(ids: Ids, *, as_json: JsonOption = False) -> None:
    """Wait for jobs to end; print the links of their variations."""

    def follow(client: Client, uuid: str, line: Line) -> Acted:
        job = _follow(client.jobs.get(uuid), line)
        return Acted(job, job.links())

    _each(ids, follow, as_json=as_json)


@jobs.command()
def cancel(ids: Ids, *, as_json: JsonOption = False) -> None:
    """End jobs; those that have ended stay as they are."""
    _each(ids, lambda client, uuid, _: _described(client.jobs.get(uuid).cancel()), as_json=as_json, judge=False)


@jobs.command()
def download(ids: Ids, *, out: Out = Path(), as_json: JsonOption = False) -> None:
    """Write the variations of jobs that have ended into a folder; print the files."""

    def fetch(client: Client, uuid: str, _: Line) -> Acted:
        job = client.jobs.get(uuid)
        if not job.finished:
            raise TimedOut(f"has not ended; wait for it: reduxq wait {uuid}")
        return _written(job, out, uuid)

    _each(ids, fetch, as_json=as_json)


@jobs.command("list")
def show_list(
    *,
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the team's jobs, the newest first."""
    with Client() as client, Teller(as_json=as_json) as teller:
        found = client.jobs.list(status=status, limit=limit)
        if as_json:
            for job in found:
                teller.say(job.record, "")
        else:
            console = Console(highlight=False)
            console.width = max(console.width, WIDTH)
            console.print(_table(found))


@jobs.command()
def watch(
    *,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many jobs at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the team's newest jobs as they get on, until Ctrl-C."""
    console = Console(highlight=False)
    with Client() as client:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for found in _looks(client, limit):
                    live.update(_table(found), refresh=True)
        said = dict[str, str]()
        for found in _looks(client, limit):
            now = {job.uuid: job.describe() for job in reversed(found)}
            for job in reversed(found):
                if said.get(job.uuid) != (text := now[job.uuid]):
                    typer.echo(json.dumps(job.record) if as_json else f"{job.uuid}  {text}")
            said = now


def _looks(client: Client, limit: int) -> Iterator[list[Job]]:
    """Look at the newest jobs again and again, also after the service was away."""
    while True:
        yield client.connection.outlast(lambda: list(client.jobs.list(limit=limit)))
        sleep(LOOK)


def _each(
    names: Sequence[str], act: Callable[[Client, str, Line], Acted], *, as_json: bool, judge: bool = True
) -> None:
    """Do something about each, side by side, and tell what came of it in their order.

    Raises:
        Exit: With 1 if anything failed; with ``judge`` also if a job did.
    """
    with Client() as client, Teller(as_json=as_json) as teller:
        lines = [teller.line(name) for name in names]
        futures = side_by_side(lambda pair: act(client, *pair), zip(names, lines, strict=True))
        for name, future in zip(names, futures, strict=True):
            try:
                job, printed, files = future.result()
            except Unauthorized:
                raise
            except (ReduxqError, OSError) as error:
                teller.fail(name, error)
                continue
            told = {"name": name, **job.record} | ({} if files is None else {"files": files})
            if judge and job.error:
                teller.fail(name, job.error, told)
            else:
                teller.say(told, printed)
    if teller.failed:
        raise typer.Exit(1)


def _follow(job: Job, line: Line) -> Job:
    for _ in job.events():
        line.job(job)
    return job


def _described(job: Job) -> Acted:
    return Acted(job, [f"{job.uuid}  {job.describe()}"])


def _written(job: Job, out: Path, stem: str) -> Acted:
    files = [str(path) for path in job.download(out, stem)]
    return Acted(job, files, files)


def _table(found: Iterable[Job]) -> Table:
    table = Table("id", "accepted", "priority", "outputs", "state", box=None)
    for job in found:
        extra = job.record["additionalData"]
        accepted = job.record["createdAt"][:19].replace("T", " ")
        table.add_row(job.uuid, accepted, extra["priority"], str(len(extra["seeds"])), job.describe().partition(":")[0])
    return table
