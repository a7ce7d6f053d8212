"""What the dispatcher sees each round."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any, NamedTuple

from shared import dispatch_store, presence
from shared.backlog import Backlog
from shared.dispatch_store import Messages, Shares
from shared.ids import JobId
from shared.job_index import Queue, want_room
from shared.job_store import JobStore
from shared.presence import WorkerLife
from shared.programs import Program, commit, together


class Look(NamedTuple):
    """What one look finds."""

    at: float  #: the server's time, in seconds
    lives: Mapping[str, WorkerLife]  #: living workers by their names
    late: list[JobId]  #: jobs whose deadline has passed
    queues: Mapping[Queue, int]  #: queued work in TFLOP
    shares: Shares
    messages: Messages
    running: list[JobId]  #: that somebody holds
    lost: list[JobId]  #: running jobs whose lease is gone

    def overdue(self, patience: timedelta) -> list[JobId]:
        """Return the queued jobs whose message went out longer ago than that."""
        return [job_id for job_id, at in self.messages.oldest.items() if at <= self.at - patience.total_seconds()]

    @property
    def ahead(self) -> int:
        """Room of all workers for jobs that go ahead of what runs."""
        return sum(life.ahead for life in self.lives.values())

    @property
    def standing(self) -> Backlog:
        """What is told to others, but for what waits."""
        speeds = [life.speed for life in self.lives.values() if life.speed]
        return Backlog(
            published=self.messages.published,
            running=len(self.running),  # those of dead workers take nobody's room
            workers=len(self.lives),
            slots=sum(life.slots for life in self.lives.values()),
            speed=fmean(speeds) * len(self.lives) if speeds else 0.0,  # who has run no job yet is as fast as the others
        )


def look(store: JobStore, *, wait: timedelta | None, wants_room: bool, now: datetime, limit: int) -> Program[Look]:
    """Wait for a ring, and in the same breath look: whoever rings waits for what comes of it.

    Args:
        store: Knows the running jobs.
        wait: For at most so long; None: not at all.
        wants_room: Have it rung when a job ends after this look.
        now: A deadline before this has passed.
        limit: Late jobs at most, and jobs whose message may be overdue.
    """
    asked: list[Program[Any]] = [
        dispatch_store.server_seconds(),
        presence.living_workers(),
        dispatch_store.expiring(now, limit),
        dispatch_store.backlog(),
        dispatch_store.shares(),
        # In this order a job that is claimed in between counts twice, and never not at all.
        dispatch_store.messages(limit),
        store.running(),
    ]
    first: list[Program[Any]] = [dispatch_store.wait_for_ring(wait)] if wait else []
    first += [commit([], want_room())] if wants_room else []
    *seen, (running, lost) = (yield from together([*first, *asked]))[len(first) :]
    return Look._make([*seen, running, lost])
