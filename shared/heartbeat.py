"""A file whose age tells supervisors whether a process lives."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Beat = Callable[[], None]


def heartbeat(file: str) -> Beat:
    """Return what touches the file; without a name, what does nothing."""

    def beat() -> None:
        with suppress(OSError):  # who looks at the file finds it old
            Path(file).touch()

    return beat if file else still


def still() -> None:
    """Do nothing."""
