"""Which trajectories share the engine's next call: a pure function of the jobs in flight.

Who leads :mod:`shared.turns` says.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from shared.sizes import Size
from shared.turns import PATIENCE, take_turns

SHARE: Final = 0.03  #: of the engine, for steps of jobs that would starve; it grows with the cube of their lateness
MOST: Final = 0.5  #: to which that share grows


class Flight(NamedTuple):
    """One job in the engine."""

    size: Size
    rows: int  #: trajectories that still need steps
    step_work: float  #: TFLOP of one step of one row
    left: float  #: TFLOP until it is done, decoding included
    total: float  #: TFLOP of the whole job
    arrived: float  #: seconds, monotonic: when it was accepted
    entered: float  #: seconds, monotonic: when the engine got it
    served: float  #: seconds, monotonic: when it last took a step, or else entered
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
    if len(flights) == 1:
        return [(0, row) for row in range(min(call_rows(flights[0].size), flights[0].rows))]
    order, spare = take_turns(flights, now=now, speed=speed)
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
    """Return how long the engine has had a job, in times of what it may take."""
    return (now - flight.entered) * speed / (flight.patience * flight.total)
