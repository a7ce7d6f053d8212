"""Which trajectories share the engine's next call: a pure function of the jobs in flight.

A job is in time if it takes at most three times as long as it would alone, or thirty times if its priority is low.
Among those that can all be in time together the one due first leads; where not all can, Moore and Hodgson's rule (1968)
gives up the fewest, the longest. Those given up come after, the shortest first. ``python -m tests.bench.deadlines``
measures what that is worth.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from typing import Final, NamedTuple

from shared.sizes import Size

PATIENCE: Final = 3  #: a job is due after so many times what it takes alone
LOW_PATIENCE: Final = 30  #: the same for one of low priority, so that nearly all others go first
SPARE: Final = 0.05  #: of the jobs' slack, for work that is not due; those that are still to come need the rest
SHARE: Final = 0.03  #: of the engine, for steps of jobs that would starve; it grows with the cube of their lateness
MOST: Final = 0.5  #: to which that share grows


class Flight(NamedTuple):
    """One job in the engine."""

    size: Size
    rows: int  #: trajectories that still need steps
    step_work: float  #: TFLOP of one step of one row
    left: float  #: TFLOP until it is done, decoding included
    total: float  #: TFLOP of the whole job
    arrived: float  #: seconds, monotonic: when the engine got it
    served: float  #: seconds, monotonic: when it last took a step, or else arrived
    patience: int = PATIENCE  #: it is due after so many times what it takes alone


def pick(
    flights: Sequence[Flight], *, now: float, speed: float, call_rows: Callable[[Size], int]
) -> list[tuple[int, int]]:
    """Return who shares the next call, as (place in ``flights``, row of it): one size, the job that leads first.

    All rows of the one that leads take part, as far as they fit, and rows of others where all can spare it, though
    none of low priority beside one that is not. A job among n that was passed over for n steps' time / :data:`SHARE`
    leads with one row, so that nothing starves.

    Args:
        flights: At least one, each with a row at least.
        now: Seconds, monotonic.
        speed: TFLOP/s; 0 if nothing was measured yet: then nobody seems to have waited.
        call_rows: How many rows of a size may share a call; at least one.
    """
    order, spare = _order(flights, now, speed)
    idle = min(order, key=lambda place: flights[place].served)
    share = min(MOST, SHARE * max(1.0, _lateness(flights[idle], now, speed) / 2) ** 3)
    waits = share * speed * (now - flights[idle].served) > len(flights) * flights[idle].step_work
    starves = waits and idle != order[0]
    lead = idle if starves else order[0]
    size, step, patience = flights[lead].size, flights[lead].step_work, flights[lead].patience
    room = call_rows(size)
    chosen = [(lead, row) for row in range(1 if starves else min(room, flights[lead].rows))]
    for place in order:
        if place != lead and flights[place].size == size and flights[place].patience <= patience:
            rows = min(room - len(chosen), flights[place].rows, int(spare / step))
            chosen += [(place, row) for row in range(rows)]
            spare -= rows * step
    return chosen


def _lateness(flight: Flight, now: float, speed: float) -> float:
    """Return how long a job is here, in times of what it may take."""
    return (now - flight.arrived) * speed / (flight.patience * flight.total)


def _order(flights: Sequence[Flight], now: float, speed: float) -> tuple[list[int], float]:
    """Return the flights' places in the order of their turns, and how many TFLOP may be done out of turn."""
    due = [(each.arrived - now) * speed + each.patience * each.total for each in flights]  # TFLOP from now
    by_due = sorted(range(len(flights)), key=due.__getitem__)
    busy, kept = 0.0, list[tuple[float, int]]()
    for rank, place in enumerate(by_due):
        busy += flights[place].left
        heappush(kept, (-flights[place].left, -rank))  # of equal ones the job that is due last is given up
        if busy > due[place]:
            busy += heappop(kept)[0]
    in_time = [by_due[rank] for rank in sorted(-rank for _, rank in kept)]
    ends = accumulate(flights[place].left for place in in_time)
    slack = [due[place] - end for place, end in zip(in_time, ends, strict=True)]
    spare = SPARE * max(0.0, min(slack)) if slack else sum(each.left for each in flights)
    late = sorted(set(by_due).difference(in_time), key=lambda place: (flights[place].left, place))
    ahead = late[:1] if late and flights[late[0]].left <= spare else []
    return [*ahead, *in_time, *late[len(ahead) :]], spare
