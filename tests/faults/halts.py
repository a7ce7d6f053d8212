"""Where a test stops a process to the point, and what it is made of.

A test asks for a halt by making a file named after the phase. The first process that comes there renames the file after
itself, so that the test knows it, and stands still until the test removes the file.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

FOLDER = "HALTS"  #: variable that names the files' folder


def halt(phase: str) -> None:
    """Stand still here, if a test asked for it."""
    folder = Path(os.environ[FOLDER])
    mine = folder / f"{phase}.{os.getpid()}"
    with suppress(FileNotFoundError):
        (folder / phase).rename(mine)
        while mine.exists():
            time.sleep(0.005)


class Halts:
    """The test's side."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    @property
    def environment(self) -> dict[str, str]:
        return {FOLDER: str(self._folder)}

    def ask(self, phase: str) -> None:
        (self._folder / phase).touch()

    def who(self, phase: str) -> int | None:
        """Return the process that stands still there; None: none does yet."""
        return next((int(file.suffix[1:]) for file in self._folder.glob(f"{phase}.*")), None)

    def release(self, phase: str = "") -> None:
        """Let those in a phase, or everyone, go on, and take back what nobody has met."""
        for file in self._folder.glob(f"{phase}*"):
            file.unlink()
