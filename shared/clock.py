"""The time as a process sees it, handed down as a value, so that tests can run years of it in a second."""

import time
from datetime import UTC, datetime
from threading import Event


class Clock:
    """The machine's own time."""

    def now(self) -> datetime:
        """Return the time of day, which may jump."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait for an event, no longer than this; return whether it happened."""
        return event.wait(seconds)
