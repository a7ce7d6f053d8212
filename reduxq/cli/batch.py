"""``reduxq batch``: a folder of pictures through the service, however often that is interrupted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import suppress
from glob import glob
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Annotated, Any, Final

import typer

from reduxq.batches import Batch, Item, manifest
from reduxq.cli import options as of
from reduxq.cli.parallel import side_by_side
from reduxq.cli.state import State
from reduxq.cli.telling import JsonOption, Line, Teller
from reduxq.client import Client, Parameters
from reduxq.errors import InvalidRequest, NotFound, ReduxqError, TimedOut, TooManyRequests, Unavailable, error_of_job
from reduxq.files import fetch

batching = typer.Typer()

SUFFIXES: Final = {".jpeg", ".jpg", ".png", ".webp"}  #: of the files of a folder that are pictures
LOOK: Final = 3  #: seconds between two looks at a batch, at least

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
        if cancel:
            for known in _known(client, state):
                known.cancel()
            return
        try:
            _send(client, state, teller, collect(paths or [], out), header)
            for known in _known(client, state):
                _follow(known.retry() if retry_failed else known, client, state, teller)
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


def _send(client: Client, state: State, teller: Teller, pictures: Pictures, header: dict[str, Any]) -> None:
    """Upload what is not there yet, and send what no batch has yet."""
    keys = _upload(client, state, teller, pictures)
    sent = {(item["customId"], item["imageUrl"]): head for head, item in state.items()}
    if keys and any(head["defaults"] != header["defaults"] for head in sent.values()):
        raise Misuse("the variations in OUT were made with other parameters; choose another --out")
    items = [{"customId": name, "imageUrl": key} for name, key in keys.items() if (name, key) not in sent]
    if items:
        text = manifest(items, header).decode()
        state.note(post=sha256(text.encode()).hexdigest(), manifest=text)
    for post, text in state.unsent():
        try:
            state.note(post=post, batch=client.batches.send(text.encode(), post).uuid)
        except (Unavailable, TooManyRequests):  # it may have been accepted: the same again is the same batch
            raise
        except ReduxqError:
            state.note(post=post, refused=True)
            raise


def _upload(client: Client, state: State, teller: Teller, pictures: Pictures) -> dict[str, str]:
    """Return the key of each picture; one whose bytes were uploaded before is not uploaded again."""
    line, digests = teller.line("uploads"), dict[str, str]()

    def upload(name: str) -> None:
        content = pictures[name].read_bytes()
        digests[name] = sha256(content).hexdigest()
        if digests[name] not in state.keys:
            key = client.upload(content, PurePath(name).name)
            state.note(picture=digests[name], key=key)

    futures = side_by_side(upload, pictures)
    names = dict(zip(futures, pictures, strict=True))
    for done, future in enumerate(as_completed(futures), start=1):
        line.show(f"{done} of {len(futures)}", done, len(futures))
        try:
            future.result()
        except (InvalidRequest, OSError) as error:
            digests.pop(names[future], None)
            teller.fail(names[future], error)
    return {name: state.keys[digests[name]] for name in pictures if name in digests}


def _known(client: Client, state: State) -> list[Batch]:
    return [client.batches.get(uuid) for uuid in state.batches.values()]


def _follow(batch: Batch, client: Client, state: State, teller: Teller) -> None:
    """Write variations as they get ready until the batch has ended, then what is left, and tell what failed."""
    line, cursor = teller.line(f"batch {batch.uuid}"), None
    while not batch.finished:
        _show(line, batch)
        with suppress(TimedOut, TooManyRequests, Unavailable):  # a night is long, and the service will be back
            began, (items, cursor) = len(state.saved), _ready(batch, cursor)
            _save(items, client, state, teller)
            # About a question a second, a third of what a key may ask: others use it too.
            batch.wait(max(LOOK, len(state.saved) - began))
    _show(line, batch)
    results = list(batch.results())
    _save(results, client, state, teller)
    for item in results:
        if item["error"]:
            teller.fail(item["customId"], error_of_job(item["error"]))


def _show(line: Line, batch: Batch) -> None:
    counts = batch.counts
    done = counts["succeeded"] + counts["failed"] + counts["canceled"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    line.show(f"{done} of {counts['total']}{failed}", done, counts["total"])


def _ready(batch: Batch, cursor: str | None) -> tuple[list[Item], str | None]:
    """Return the items after a cursor as far as any has begun, and the cursor up to which all are over."""
    found, over, here = list[Item](), True, cursor
    while True:
        items, here = batch.page(here)
        found += items
        statuses = {item["status"] for item in items}
        over = over and not statuses & {"WAITING", "PROCESSING"}
        if here is None or statuses == {"WAITING"}:
            return found, cursor
        cursor = here if over else cursor


def _save(items: list[Item], client: Client, state: State, teller: Teller) -> None:
    """Write the variations of items that were not yet, each under its picture's name."""
    fresh = [item for item in items if item["status"] == "SUCCESS" and item["recordId"] not in state.saved]
    stems = stems_of(item["customId"] for _, item in state.items())

    def save(item: Item) -> list[Path]:
        paths = _fetch(item, client, state.folder, stems[item["customId"]])
        state.note(saved=item["recordId"])
        return paths

    for item, future in zip(fresh, side_by_side(save, fresh), strict=True):
        try:
            paths = [str(path) for path in future.result()]
        except (InvalidRequest, NotFound) as error:  # deleted meanwhile
            teller.fail(item["customId"], error)
        else:
            teller.say({"name": item["customId"], "recordId": item["recordId"], "files": paths}, paths)


def _fetch(item: Item, client: Client, folder: Path, stem: str) -> list[Path]:
    with suppress(KeyError, InvalidRequest, NotFound):  # it has no links yet, or they have run out
        return fetch(client.connection, item["urls"], folder, stem)
    return client.jobs.get(item["recordId"]).download(folder, stem)


def stems_of(names: Iterable[str]) -> dict[str, str]:
    """Return what the variations of each picture are called: its name, without its suffix if no other's is the same."""
    stems = {name: PurePath(name).with_suffix("").as_posix() for name in names}
    times = Counter(stem.casefold() for stem in stems.values())
    return {name: name if times[stem.casefold()] > 1 else stem for name, stem in stems.items()}
