"""Somebody with a key and a command line."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from reduxq import Client
from tests.samples import encoded, picture
from tests.stack import Stack
from tests.terminal import Terminal, at_terminal

COMMAND = [sys.executable, "-c", "import reduxq.cli; reduxq.cli.main()"]
QUICK = ("--megapixels", "0.25", "--steps", "2")  #: a job that a CPU makes in a second
SLOW = ("--num-outputs", "4", "--steps", "50")  #: one that takes long enough to be interrupted


@dataclass
class Customer:
    """A team of its own, and a folder to work in."""

    stack: Stack
    folder: Path
    team: str = field(default_factory=lambda: str(uuid4()))
    key: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = self.stack.new_key(self.team)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDUXQ_")}
        access = {"REDUXQ_URL": self.stack.told["api_url"], "REDUXQ_API_KEY": self.key}
        self.environment = {**inherited, **access, "HOME": str(self.folder), "NO_PROXY": "127.0.0.1"}

    def photo(self, name: str, width: int = 320) -> Path:
        """A picture that is like no other."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(width, 240), "PNG"))
        return path

    def client(self) -> Client:
        return Client(self.stack.told["api_url"], self.key, trust_env=False)

    def credit(self) -> int:
        with self.stack.client(self.key) as client:
            credit: int = client.get("/users").json()["user"]["teams"][0]["team"]["credit"]
        return credit

    def run(self, *arguments: str, code: int = 0, typed: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command through pipes."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == code, done.stderr
        return done

    def at_terminal(self, *arguments: str) -> AbstractContextManager[Terminal]:
        return at_terminal([*COMMAND, *arguments], self.environment, self.folder)
