"""What a folder's batch has done so far, so that it is done once."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Final, Self

from reduxq.errors import ReduxqError

FILE: Final = ".reduxq-batch.jsonl"


class State:
    """Facts, one JSON object on a line, each on the disk before anything builds on it.

    Attributes:
        keys: Keys of uploaded pictures, by the SHA-256 of their bytes.
        manifests: What was or is to be sent, by its Idempotency-Key.
        batches: Ids of those that were accepted, by the same.
        saved: Ids of jobs whose variations were written.
        over: Ids of batches of which nothing more will come.
        team: Id of the team whose key began; empty before that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, str] = {}
        self.manifests: dict[str, str] = {}
        self.batches: dict[str, str] = {}
        self.saved: set[str] = set()
        self.over: set[str] = set()
        self.team = ""
        self._lock = Lock()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / FILE).open("a+b")
        _lock(self._file, self.folder)
        self._file.seek(0)
        content = self._file.read()
        for line in content.splitlines():
            with suppress(ValueError):  # the machine stopped while it was written: nothing was built on it
                self._learn(json.loads(line))
        if not content.endswith(b"\n"):
            self._file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def begun(self) -> bool:
        """Whether anything was done."""
        return bool(self.keys or self.manifests)

    def note(self, **fact: Any) -> None:
        """Add a fact; it is on the disk when this returns."""
        with self._lock:
            self._file.write(json.dumps(fact).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._learn(fact)

    def items(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Give what was sent or is to be: the manifest's key, its header, and the item."""
        for post, text in self.manifests.items():
            header, *items = map(json.loads, text.splitlines())
            yield from ((post, header, item) for item in items)

    def unsent(self) -> list[tuple[str, str]]:
        """Return the manifests, and their keys, that no answer came to."""
        return [(post, text) for post, text in self.manifests.items() if post not in self.batches]

    def _learn(self, fact: dict[str, Any]) -> None:
        match fact:
            case {"picture": digest, "key": key}:
                self.keys[digest] = key
            case {"post": post, "manifest": text}:
                self.manifests[post] = text
            case {"post": post, "batch": uuid}:
                self.batches[post] = uuid
            case {"post": post, "refused": True}:
                del self.manifests[post]
            case {"saved": uuid}:
                self.saved.add(uuid)
            case {"over": uuid}:
                self.over.add(uuid)
            case {"team": team}:
                self.team = team


def _lock(file: BinaryIO, folder: Path) -> None:
    """Keep others from working in the folder; where the system cannot, it is up to them."""
    try:
        import fcntl  # noqa: PLC0415  there is none on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return
    except BlockingIOError as error:
        file.close()
        raise ReduxqError(f"another reduxq batch works in {folder}") from error
