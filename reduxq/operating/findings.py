"""What a check of a deployment finds."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from shared.clock import Clock
from shared.settings import Settings


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"  #: could not be looked at from here
    WARNING = "warning"
    BROKEN = "broken"


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    found: str
    mend: str = ""


class Site(NamedTuple):
    """The deployment that is checked, and who looks."""

    settings: Settings
    api_url: str | None
    clock: Clock


class Check(NamedTuple):
    """One look, which tells what it finds while it goes on; how to mend it if it raises or never ends."""

    name: str
    look: Callable[[Site], Iterator[Finding]]
    mend: str


def judge(fine: object, found: str, mend: str, otherwise: Level = Level.BROKEN) -> Finding:
    """Return what was found: all is well, or ``otherwise``."""
    return Finding(Level.OK, found) if fine else Finding(otherwise, found, mend)
