"""Processes by their names, to be killed, frozen and replaced, each with all that it started."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from tests import servers


class Crew:
    """Starts Python modules, and starts again what died, as an orchestrator would.

    Args:
        folder: For logs.
        living: Ends all of them.
    """

    def __init__(self, folder: Path, living: ExitStack) -> None:
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        self._living = living
        self._made: dict[str, tuple[list[str], Mapping[str, str]]] = {}

    def add(self, name: str, command: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start ``python -m`` with this command."""
        self._made[name] = ([sys.executable, "-m", *command], environment)
        return self._start(name)

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        arguments, environment = self._made[name]
        running = servers.process(arguments, self._folder / f"{name}.log", environment)
        self.parts[name] = self._living.enter_context(running)
        return self.parts[name]

    def named(self, start: str) -> list[str]:
        """Return the names that begin like this."""
        return [name for name in self.parts if name.startswith(start)]

    def name_of(self, pid: int | None) -> str:
        return next(name for name, part in self.parts.items() if part.pid == pid)

    def kill(self, name: str) -> None:
        """Kill a part; the next :meth:`revive` replaces it."""
        self._signal(name, signal.SIGKILL)
        assert self.parts[name].wait() == -signal.SIGKILL

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)
        servers.wait_until(lambda: psutil.Process(self.parts[name].pid).status() == psutil.STATUS_STOPPED)

    def thaw(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    def revive(self) -> list[str]:
        """Start again what is dead, and return its names."""
        dead = [name for name, part in self.parts.items() if part.poll() is not None]
        for name in dead:
            self._start(name)
        return dead

    def end(self) -> None:
        """Kill all: none has anything to save."""
        for name, part in self.parts.items():
            if part.poll() is None:
                self._signal(name, signal.SIGKILL)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = psutil.Process(self.parts[name].pid)
        with suppress(psutil.NoSuchProcess):
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(number)
