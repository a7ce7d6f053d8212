"""A connection that looks for a broker that is away at a steady pace."""

from typing import Any, Final, Self

from kombu import Connection

STEADY: Final = {"interval_start": 2, "interval_step": 0}  #: seconds between two tries, and how they grow


class SteadyConnection(Connection):
    """Kombu's own pauses grow to 30 s, in which a worker would idle although the broker is back."""

    def ensure_connection(self, *args: Any, **options: Any) -> Self:
        return super().ensure_connection(*args, **options | STEADY)
