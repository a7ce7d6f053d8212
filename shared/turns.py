"""Whose turn it is: a pure function of the jobs that engines have or could have, one rule for dispatcher and engine.

A job is in time if it takes at most three times as long as it would alone, or thirty times if its priority is low.
Among those that can all be in time together the one due first leads; where not all can, Moore and Hodgson's rule (1968)
gives up the fewest, the longest. Those given up come after, low ones last, the shortest first. ``python -m
tests.bench.deadlines`` measures what that is worth.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

PATIENCE: Final = 3  #: a job is due after so many times what it takes alone
LOW_PATIENCE: Final = 30  #: the same for one of low priority, so that nearly all others go first
SPARE: Final = 0.05  #: of the jobs' slack, for work that is not due; those that are still to come need the rest


class Due(Protocol):
    """A job that wants its turn."""

    @property
    def arrived(self) -> float:
        """Seconds, of the clock that ``now`` is of, when it was accepted."""

    @property
    def left(self) -> float:
        """TFLOP until it is done."""

    @property
    def total(self) -> float:
        """TFLOP of the whole job."""

    @property
    def patience(self) -> int:
        """It is due after so many times what it takes alone."""


class Turns(NamedTuple):
    """In which order jobs have their turns."""

    order: list[int]  #: their places
    spare: float  #: TFLOP that may be done out of turn


def take_turns(jobs: Sequence[Due], *, now: float, speed: float, engines: int = 1) -> Turns:
    """Return the order in which jobs lead.

    Args:
        jobs: Whatever their order.
        now: Seconds.
        speed: Of an engine, TFLOP/s; 0 if nothing was measured yet: then nobody seems to have waited.
        engines: Share the jobs, as if their work could be divided at will; so many lead.
    """
    due = [engines * ((job.arrived - now) * speed + job.patience * job.total) for job in jobs]  # TFLOP from now
    by_due = sorted(range(len(jobs)), key=due.__getitem__)
    busy, kept = 0.0, list[tuple[float, int]]()
    for rank, place in enumerate(by_due):
        busy += jobs[place].left
        heappush(kept, (-jobs[place].left, -rank))  # of equal ones the job that is due last is given up
        if busy > due[place]:
            busy += heappop(kept)[0]
    in_time = [by_due[rank] for rank in sorted(-rank for _, rank in kept)]
    ends = accumulate(jobs[place].left for place in in_time)
    slack = [due[place] - end for place, end in zip(in_time, ends, strict=True)]
    spare = SPARE * max(0.0, min(slack)) if slack else sum(job.left for job in jobs)
    given_up = set(by_due).difference(in_time)
    late = sorted(given_up, key=lambda place: (jobs[place].patience, jobs[place].left, jobs[place].arrived, place))
    ahead = late[:1] if late and jobs[late[0]].left <= spare else []
    return Turns([*ahead, *in_time, *late[len(ahead) :]], spare)
