"""How many messages, and for which jobs: pure functions, so that the order of work can be tested without a server."""

from collections.abc import Collection, Sequence

from shared.ids import JobId


def window(*, slots: int, running: int, under_way: int, headroom: int) -> int:
    """Return how many more messages may be published.

    Args:
        slots: Jobs that all living workers can hold; with none nothing is published.
        running: Jobs held now.
        under_way: Jobs published and not yet claimed.
        headroom: Messages beyond the free slots, so that none waits for the dispatcher.
    """
    return max(0, slots + headroom - running - under_way) if slots else 0


def choose(queued: Sequence[JobId], under_way: Collection[JobId], count: int) -> list[JobId]:
    """Return the next jobs to publish: the oldest that are not under way."""
    return [job_id for job_id in queued if job_id not in under_way][:count]
