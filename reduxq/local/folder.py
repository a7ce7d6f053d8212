"""The data folder of a local stack."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import Misconfigured

PRIVATE: Final = 0o600
LEAVING: Final = timedelta(seconds=2)  #: how long the parts of a supervisor that was just killed may take to follow it


class Kept(BaseModel):
    """What is drawn for a data folder and kept from one stack to the next, secrets and ports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_password: str = Field(default_factory=lambda: secrets.token_hex(24))
    s3_access_key: str = Field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: str = Field(default_factory=lambda: secrets.token_hex(24))
    flower_user: str = "reduxq"
    flower_password: str = Field(default_factory=lambda: secrets.token_urlsafe(18))
    api_key: str = ""  #: made when the records server runs
    ports: dict[str, int] = {}  #: by part


class DataFolder:
    """The folder that one stack owns while it runs.

    Every part inherits the lock, so parts left behind by a killed supervisor keep the next one out.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock  #: file descriptor
        self.logs = path / "logs"
        self.logs.mkdir(exist_ok=True)
        self.note_pids({})
        self.remove_stack()  # what a killed supervisor left behind is no longer true

    @classmethod
    @contextmanager
    def locked(cls, path: Path) -> Iterator["DataFolder"]:
        """Own the folder, made if it does not exist.

        Raises:
            Misconfigured: If it is in use or cannot be written.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise Misconfigured(f"cannot write the data folder {path}: {error.strerror}") from error
        try:
            _take(lock, path)
            yield cls(path, lock)
        finally:
            os.close(lock)

    def load(self) -> Kept:
        """Return what the folder keeps, drawn if it is new."""
        place = self.path / "secrets.json"
        if not place.exists():
            self.save(Kept())
        try:
            return Kept.model_validate_json(place.read_text())
        except ValidationError as error:
            raise Misconfigured(f"{place} is not what reduxq wrote; remove it together with {self.path}") from error

    def save(self, kept: Kept) -> None:
        """Keep this for the next stack in the folder."""
        write_private(self.path / "secrets.json", kept.model_dump_json(indent=2))

    def note_pids(self, pids: Mapping[str, int]) -> None:
        """Keep who runs here, for whoever finds the folder locked."""
        write_private(self.path / "pids.json", json.dumps({"supervisor": os.getpid(), **pids}))

    def write_stack(self, stack: Mapping[str, Any]) -> None:
        """Publish where the parts are."""
        write_private(self.path / "stack.json", json.dumps(stack, indent=2))

    def remove_stack(self) -> None:
        (self.path / "stack.json").unlink(missing_ok=True)


def read_stack(path: Path) -> dict[str, Any]:
    """Return what the running stack in the folder published.

    Raises:
        Misconfigured: If none runs there.
    """
    try:
        found: dict[str, Any] = json.loads((path / "stack.json").read_text())
    except (OSError, ValueError) as error:
        raise Misconfigured(f"no stack runs in {path}; start one with: reduxq up --data {path}") from error
    return found


def write_private(place: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = place.with_name(place.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(place)


def _take(lock: int, path: Path) -> None:
    deadline = monotonic() + LEAVING.total_seconds()
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if monotonic() > deadline:
                noted: dict[str, int] = json.loads((path / "pids.json").read_text())
                users = ", ".join(f"{name} {pid}" for name, pid in noted.items())
                raise Misconfigured(
                    f"{path} is in use by the processes {users}; end the supervisor, or each of them if it is gone"
                ) from error
        sleep(0.05)
