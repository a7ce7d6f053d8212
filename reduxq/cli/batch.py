"""``reduxq batch``: a folder of pictures through the service, however often that is interrupted."""

from collections.abc import Iterator
from concurrent.futures import as_completed
from errno import EBUSY
from glob import glob
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import typer

from reduxq.batches import Batch, manifest
from reduxq.cli import options as of
from reduxq.cli.following import Follower, Run, described
from reduxq.cli.parallel import side_by_side
from reduxq.cli.state import State
from reduxq.cli.telling import JsonOption, Teller
from reduxq.client import Client, Parameters
from reduxq.errors import InvalidRequest, NotFound, ReduxqError, TooManyRequests, Unavailable

batching = typer.Typer()

SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".webp"}  #: of the files of a folder that are pictures
MARK: Final = "reduxq-batch"  #: in a batch's metadata leads to its Idempotency-Key

Pictures = dict[str, Path]  #: by the name that is an item's customId


class Misuse(ReduxqError):
    """The command was not meant for that."""


@batching.command()
def batch(  # noqa: PLR0913  options
    paths: Annotated[list[str] | None, typer.Argument(help="Folders, files or globs; none: what OUT knows of.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the variations, and for what is needed to resume.")],
    num_outputs: of.NumOutputs = None,
    aspect_ratio: of.AspectRatio = None,
    megapixels: of.Megapixels = None,
    num_inference_steps: of.Steps = None,
    seed: of.Seed = None,
    format: of.Format = None,  # noqa: A002  its name everywhere
    output_quality: of.Quality = None,
    priority: of.Priority = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was begun in OUT, if it was.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Resume, and try again what failed.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel what OUT knows of, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Vary many pictures: upload them, send one batch, write the variations as they get ready.

    Nothing is uploaded or paid twice: OUT keeps what was done, and --resume goes on after Ctrl-C or a crash.
    """
    header = {"defaults": of.given(locals(), Parameters.__annotations__), **of.given(locals(), ["priority"])}
    with Client() as client, State(out) as state, Teller(as_json=as_json) as teller:
        if state.begun and not (resume or retry_failed or cancel):
            raise Misuse(f"{out} holds a batch already; go on with it by --resume, or choose another --out")
        if not (state.begun or paths):
            raise Misuse(f"{out} holds no batch; name the pictures for one")
        run = Run(client, state, teller)
        _belong(run)
        try:
            if cancel:
                _cancel(run)
            else:
                failed = _failed(run) if retry_failed else set()
                _send(run, collect(paths or [], out), header, failed)
                for known in _known(run):
                    Follower(known.retry() if retry_failed else known, run).follow()
        except KeyboardInterrupt:
            teller.hint = "; to follow it again, or to go on with uploads: the same command with --resume"
            raise
    if teller.failed:
        raise typer.Exit(1)


def collect(paths: list[str], out: Path) -> Pictures:
    """Return the pictures in folders, and files by name or glob, each under a name of its own.

    Raises:
        Misuse: If there are none under a path, or two of one name.
    """
    found: Pictures = {}
    for text in paths:
        named = dict(_named(Path(text), text, out.resolve()))
        if not named:
            raise Misuse(f"there are no pictures at {text}")
        if same := named.keys() & found.keys():
            raise Misuse(f"two pictures are called {min(same)}; name a folder that holds both")
        found |= named
    return dict(sorted(found.items()))


def _named(path: Path, text: str, out: Path) -> Iterator[tuple[str, Path]]:
    if path.is_dir():
        for file in path.rglob("*"):
            if file.suffix.lower() in SUFFIXES and out not in file.resolve().parents:
                yield file.relative_to(path).as_posix(), file
    else:
        files = [path] if path.exists() else [Path(file) for file in glob(text, recursive=True)]  # noqa: PTH207  may be absolute
        yield from ((file.name, file) for file in files)


def _belong(run: Run) -> None:
    """Refuse the key of another team, to which all that was sent would seem to be gone."""
    team = run.client.connection.get("/users")["user"]["teams"][0]["team"]["uuid"]
    if not run.state.team:
        run.state.note(team=team)
    if run.state.team != team:
        raise Misuse(f"what is in {run.state.folder} was made with another team's key; choose another --out")


def _send(run: Run, pictures: Pictures, header: dict[str, Any], failed: set[str]) -> None:
    """Upload what is not there yet, and send what no batch has yet."""
    client, state, _ = run
    unsent = state.unsent()
    sent = {(item["customId"], item["imageUrl"]): head for _, head, item in state.items()}
    if pictures and any(head["defaults"] != header["defaults"] for head in sent.values()):
        raise Misuse("the variations in OUT were made with other parameters; choose another --out")
    known = {pair for pair in sent if pair[0] not in failed}
    keys = _upload(run, pictures, known)
    items = [{"customId": name, "imageUrl": key} for name, key in keys.items() if (name, key) not in sent]
    if items:
        post = str(uuid4())
        state.note(post=post, manifest=manifest(items, header | {"metadata": {MARK: post}}).decode())
    # An Idempotency-Key is known for a day; the answer to an earlier run may have been lost longer ago.
    accepted = {each.record["metadata"].get(MARK): each.uuid for each in client.batches.list()} if unsent else {}
    for post, text in state.unsent():
        try:
            uuid = accepted.get(post) or client.batches.send(text.encode(), post).uuid
        except (Unavailable, TooManyRequests):  # it may have been accepted: the same again is the same batch
            raise
        except ReduxqError:
            state.note(post=post, refused=True)
            raise
        state.note(post=post, batch=uuid)


def _upload(run: Run, pictures: Pictures, known: set[tuple[str, str]]) -> dict[str, str]:
    """Return the key of each picture; one whose bytes are there is not uploaded again.

    Args:
        run: Has the keys of what was uploaded.
        pictures: Which.
        known: Names and keys of pictures that need no look at whether they are there.
    """
    client, state, teller = run
    line, keys = teller.line("uploads"), dict[str, str]()
    line.show("looking at the pictures", 0, None)
    alike = _alike(run, pictures)

    def upload(digest: str, names: list[str]) -> str:
        key = state.keys.get(digest, "")
        if not (key and (known.issuperset((name, key) for name in names) or _is_there(client, key))):
            key = _store(client, pictures[names[0]], digest)
            state.note(picture=digest, key=key)
        return key

    futures = dict(zip(side_by_side(lambda same: upload(*same), alike.items()), alike.values(), strict=True))
    for done, future in enumerate(as_completed(futures), start=1):
        line.show(f"{done} of {len(futures)}", done, len(futures))
        try:
            keys |= dict.fromkeys(futures[future], future.result())
        except (InvalidRequest, OSError) as error:
            for name in futures[future]:
                teller.fail(name, error)
    return {name: keys[name] for name in pictures if name in keys}


def _alike(run: Run, pictures: Pictures) -> dict[str, list[str]]:
    """Return the pictures' names by the SHA-256 of their bytes: the first of a list lends its name to the upload.

    So a repeat asks for the same uploads, whichever of its threads is the fastest.
    """
    alike: dict[str, list[str]] = {}
    for name, future in zip(pictures, side_by_side(_digest, pictures.values()), strict=True):
        try:
            alike.setdefault(future.result(), []).append(name)
        except OSError as error:
            run.teller.fail(name, error)
    return alike


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _is_there(client: Client, key: str) -> bool:
    try:
        client.connection.get(f"/api/assets/{key}")
    except NotFound:
        return False
    return True


def _store(client: Client, path: Path, digest: str) -> str:
    """Upload a picture, unless an earlier run did whose answer got lost; the same request has the same name, too."""
    content, name = path.read_bytes(), path.name
    if sha256(content).hexdigest() != digest:
        raise OSError(EBUSY, "was changed while it was read")
    once = sha256(f"{digest} {name}".encode()).hexdigest()
    try:
        return client.upload(content, name, idempotency_key=once)
    except InvalidRequest as error:
        if all(detail["field"] != "Idempotency-Key" for detail in error.details):
            raise
        return client.upload(content, name)  # what it stored within the last day was deleted


def _known(run: Run) -> Iterator[Batch]:
    """Give the batches of which more may come; one that the service has forgotten is told, this once."""
    for uuid in [uuid for uuid in run.state.batches.values() if uuid not in run.state.over]:
        try:
            yield run.client.batches.get(uuid)
        except NotFound:
            run.state.note(over=uuid)
            lost = NotFound("the service keeps it no longer; what of it is not here by now will never come")
            run.teller.fail(f"batch {uuid}", lost)


def _failed(run: Run) -> set[str]:
    """Return the names of pictures that are to be tried again, whose source may be gone by now."""
    return {
        item["customId"]
        for known in _known(run)
        for status in ("FAILURE", "CANCELED")
        for item in known.items(status=status)
    }


def _cancel(run: Run) -> None:
    for known in _known(run):
        canceled = known.cancel()
        run.teller.say(canceled.record, f"{canceled.uuid}  {described(canceled)}")
