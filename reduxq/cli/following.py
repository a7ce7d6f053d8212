"""How a batch's variations come into a folder while it is under way."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from math import ceil
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from reduxq.batches import PAGE, Batch, Item
from reduxq.cli.parallel import side_by_side
from reduxq.cli.state import State
from reduxq.cli.telling import Teller
from reduxq.client import Client
from reduxq.errors import InvalidRequest, NotFound, ReduxqError, TimedOut, TooManyRequests, Unavailable, error_of_job

LOOK: Final = 3  #: seconds between two looks at a batch, at least
OPEN: Final = {"WAITING", "PROCESSING"}  #: statuses of items that have not ended


class Run(NamedTuple):
    """What one command works with."""

    client: Client
    state: State
    teller: Teller


class Follower:
    """Writes one batch's variations as they get ready, but for pictures that a newer batch has, too."""

    def __init__(self, batch: Batch, run: Run) -> None:
        self._batch = batch
        self._client, self._state, self._teller = run
        newest = {item["customId"]: self._state.batches.get(post) for post, _, item in self._state.items()}
        self._ours = {name for name, uuid in newest.items() if uuid == batch.uuid}
        self._stems = stems_of(newest)
        self._line = self._teller.line(f"batch {batch.uuid}")
        self._over: dict[str | None, str] = {}  #: the next page's cursor by that of a page where all have ended
        self._lost: set[str] = set()  #: ids of jobs whose variations are told to be gone

    def follow(self) -> None:
        """Write what gets ready until the batch has ended, then what is left, and tell what failed."""
        while not self._batch.finished:
            self._show()
            began, asked = len(self._state.saved), 0
            with suppress(TooManyRequests, Unavailable):  # a night is long, and the service will be back
                items, over = self._ready()
                asked = ceil(len(items) / PAGE)
                self._save(items)
                self._over = over
            with suppress(TimedOut, TooManyRequests, Unavailable):
                # About a question a second, a third of what a key may ask: others use it too.
                self._batch.wait(max(LOOK, asked + len(self._state.saved) - began))
        self._show()
        failed = [item for item in self._client.connection.outlast(self._saved) if item["error"]]
        for item in failed:
            self._teller.fail(item["customId"], error_of_job(item["error"]))
        if not (failed or self._lost):
            self._state.note(over=self._batch.uuid)

    def _show(self) -> None:
        counts = self._batch.counts
        done = counts["succeeded"] + counts["failed"] + counts["canceled"]
        self._line.show(described(self._batch), done, counts["total"])

    def _ready(self) -> tuple[list[Item], dict[str | None, str]]:
        """Return the items as far as any has begun, without pages that are over, and which pages those now are."""
        found, over, here = list[Item](), self._over.copy(), None
        while True:
            if here in over:
                here = over[here]
                continue
            items, after = self._batch.page(here)
            found += items
            statuses = {item["status"] for item in items}
            if after is None or statuses == {"WAITING"}:
                return found, over
            if not statuses & OPEN:
                over[here] = after
            here = after

    def _saved(self) -> list[Item]:
        """Write what is left of a batch that has ended; return its items."""
        results = [item for item in self._batch.results() if item["customId"] in self._ours]
        self._save(results)
        return results

    def _save(self, items: list[Item]) -> None:
        """Write the variations of items that were not yet, each under its picture's name.

        Raises:
            TooManyRequests, Unavailable: If a server is away; nobody works on any of them any more.
        """
        away = list[ReduxqError]()

        def save(item: Item) -> list[Path]:
            if away:  # it need not be found out by each
                raise away[0]
            paths = self._batch.fetch(item, self._state.folder, self._stems[item["customId"]])
            self._state.note(saved=item["recordId"])
            return paths

        fresh = [item for item in items if self._is_fresh(item)]
        for item, future in zip(fresh, side_by_side(save, fresh), strict=True):
            try:
                paths = [str(path) for path in future.result()]
            except (InvalidRequest, NotFound) as error:
                self._lost.add(item["recordId"])
                self._teller.fail(item["customId"], error)
            except (TooManyRequests, Unavailable) as error:
                away.append(error)
            else:
                self._teller.say({"name": item["customId"], "recordId": item["recordId"], "files": paths}, paths)
        if away:
            raise away[0]

    def _is_fresh(self, item: Item) -> bool:
        known = self._state.saved | self._lost
        return item["status"] == "SUCCESS" and item["customId"] in self._ours and item["recordId"] not in known


def described(batch: Batch) -> str:
    """Return in words how far a batch is."""
    counts = batch.counts
    done = counts["succeeded"] + counts["failed"] + counts["canceled"]
    told = [f"{counts[name]} {name}" for name in ("failed", "canceled") if counts[name]]
    return ", ".join([f"{done} of {counts['total']}", *told])


def stems_of(names: Iterable[str]) -> dict[str, str]:
    """Return what the variations of each picture are called: its name, without its suffix if no other's is the same."""
    stems = {name: PurePath(name).with_suffix("").as_posix() for name in names}
    times = Counter(stem.casefold() for stem in stems.values())
    return {name: name if times[stem.casefold()] > 1 else stem for name, stem in stems.items()}
