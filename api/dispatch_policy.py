"""How many messages, and for which jobs: pure functions, so that the order of work can be tested without a server."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from shared.backlog import LANES
from shared.dispatch_store import Shares, UnderWay, Waiting
from shared.ids import JobId, TeamId
from shared.job_index import Queue
from shared.jobs import Lane
from shared.turns import LOW_PATIENCE, PATIENCE, take_turns

KEPT: Final = 3  #: one place in so many of those ahead is kept for previews


class Room(NamedTuple):
    """How many jobs find room."""

    slots: int
    ahead: int  #: besides, of jobs that go ahead of what runs
    kept: int = 0  #: of these, for previews


class Busy(NamedTuple):
    """What the workers do now."""

    jobs: Sequence[UnderWay] = ()
    speed: float = 0.0  #: TFLOP/s of one worker; 0: nobody knows
    workers: int = 0


NOBODY: Final = Busy()


class Plan(NamedTuple):
    """What to publish."""

    jobs: list[Waiting]  #: in order
    ahead: set[JobId]  #: those among them that go ahead of what runs
    shares: Shares  #: how the work is shared with them


class _Job(NamedTuple):
    """A job as :mod:`shared.turns` sees it."""

    arrived: float
    left: float
    total: float
    patience: int


def window(workers: Room, *, others: int, ahead: int, headroom: int) -> Room:
    """Return for how many more jobs messages may be published.

    Args:
        workers: What all living workers can hold; with nothing published if there is none.
        others: Jobs held now, or published and not yet claimed, that do not go ahead.
        ahead: Those that do; if they are more than their own room holds, they take that of others.
        headroom: Messages beyond the free room of either kind, so that none waits for the dispatcher.
    """
    if not any(workers):
        return Room(0, 0)
    own = workers.ahead + headroom if workers.ahead else 0
    slots = workers.slots + headroom - others - max(0, ahead - own)
    return Room(max(0, slots), max(0, own - ahead), workers.ahead // KEPT)


def choose(
    waiting: Sequence[Waiting], given: Shares, *, room: Room, now_us: int, ageing: timedelta, busy: Busy = NOBODY
) -> Plan:
    """Return the next jobs to publish, in order.

    Lanes go in their order, and a job moves up one lane for each ``ageing`` that it has waited. Within a lane the team
    goes first that was given least; of its jobs those go first that were begun before or have aged, then the one whose
    turn it is (:mod:`shared.turns`). What teams were given is measured in virtual time, so that one that comes back
    after a pause begins beside the others instead of catching up (start-time fair queueing: Goyal, Vin, Cheng, 1996).

    A preview goes ahead of what runs as long as there is room for that. So does, when no slot is left, a job whose turn
    would come before that of what runs; no job of low priority does.

    Args:
        waiting: The oldest jobs of each queue, whatever their order; more than find room if there are so many.
        given: How the work was shared so far.
        room: How many jobs at most.
        now_us: The time in microseconds.
        ageing: See above.
        busy: What the workers do now.
    """
    places, before_all = _turns(waiting, busy, now_us)
    queues = _in_order(waiting, places, now_us=now_us, ageing=ageing)
    clock, shares = given.clock, dict(given.teams)
    slots, besides, kept = room
    chosen, ahead = list[Waiting](), set[JobId]()

    def turn(job: Waiting) -> tuple[int, int, int, str]:
        lane = max(0, LANES.index(job.queue.lane) - _aged(job, now_us, ageing))
        return lane, _start(job.queue.team_id), job.accepted_us, job.job_id

    def _start(team_id: TeamId) -> int:
        return max(clock, shares.get(team_id, 0))

    def fits(job: Waiting) -> bool:
        if job.queue.lane is Lane.PREVIEW:
            return slots + besides > 0
        return slots > 0 or (besides > kept and job.job_id in before_all)

    while fitting := [job for own in queues.values() if (job := next(filter(fits, own), None))]:
        job = min(fitting, key=turn)
        if slots and not (besides and job.queue.lane is Lane.PREVIEW):
            slots -= 1
        else:
            besides -= 1
            ahead.add(job.job_id)
        chosen.append(job)
        team_id = job.queue.team_id
        shares[team_id] = _start(team_id) + job.work
        queues[job.queue].remove(job)
        if not queues[job.queue]:
            del queues[job.queue]
        # As long as anybody waits, the clock is the share of who was given least; low jobs hold nobody's back.
        rivals = [other for other in queues if other.lane is not Lane.LOW] or list(queues)
        clock = max(clock, min((_start(other.team_id) for other in rivals), default=shares[team_id]))
    return Plan(chosen, ahead, Shares(clock, shares))


def _turns(waiting: Sequence[Waiting], busy: Busy, now_us: int) -> tuple[dict[JobId, int], set[JobId]]:
    """Return the waiting jobs' places in the order of turns, and those whose turn would be before what runs."""
    jobs = [_job(job.queue.lane, job.accepted_us, job.work, job.work) for job in waiting]
    # What is scored, encoded or stored needs the engine no more.
    running = [_job(job.lane, job.accepted_us, job.work, job.left) for job in busy.jobs if job.left]
    order = take_turns([*running, *jobs], now=now_us / 1e6, speed=busy.speed, engines=max(1, busy.workers)).order
    ranks = {place - len(running): rank for rank, place in enumerate(order)}
    places = {job.job_id: ranks[place] for place, job in enumerate(waiting)}
    before = {job.job_id for job in waiting if places[job.job_id] < busy.workers and job.queue.lane is not Lane.LOW}
    return places, before


def _job(lane: Lane, accepted_us: int, work: int, left: float) -> _Job:
    return _Job(accepted_us / 1e6, left, work, LOW_PATIENCE if lane is Lane.LOW else PATIENCE)


def _in_order(
    waiting: Sequence[Waiting], places: dict[JobId, int], *, now_us: int, ageing: timedelta
) -> dict[Queue, list[Waiting]]:
    """Return each queue's jobs in the order in which they go."""

    def first(job: Waiting) -> tuple[bool, int, str]:
        patient = not (job.again or _aged(job, now_us, ageing))
        return patient, places[job.job_id] if patient else job.accepted_us, job.job_id

    queues = defaultdict[Queue, list[Waiting]](list)
    for job in sorted(waiting, key=first):
        queues[job.queue].append(job)
    return queues


def _aged(job: Waiting, now_us: int, ageing: timedelta) -> int:
    """Return how many lanes a job has moved up."""
    return timedelta(microseconds=max(0, now_us - job.accepted_us)) // ageing
