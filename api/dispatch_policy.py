"""How many messages, and for which jobs: pure functions, so that the order of work can be tested without a server."""

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from shared.backlog import LANES
from shared.dispatch_store import Shares, Waiting
from shared.ids import TeamId
from shared.job_index import Queue
from shared.jobs import Lane


class Room(NamedTuple):
    """How many jobs find room."""

    slots: int  #: of any lane but the low one, besides what that has
    previews: int  #: besides
    low: int  #: where nobody else takes it


def window(workers: Room, *, others: int, previews: int, low: int, headroom: int) -> Room:
    """Return for how many more jobs messages may be published.

    Args:
        workers: What all living workers can hold; with nothing published if there is none.
        others: Jobs held now, or published and not yet claimed, that are no previews and not low.
        previews: Those that are; if they are more than their own room holds, they take that of others.
        low: Those of low priority, which take nobody else's room.
        headroom: Messages beyond the free room of either kind, so that none waits for the dispatcher.
    """
    if not any(workers):
        return Room(0, 0, 0)
    own = workers.previews + headroom if workers.previews else 0
    in_slots = others + max(0, previews - own)
    slots = max(0, workers.slots + headroom - in_slots)
    return Room(slots, max(0, own - previews), max(0, min(slots, workers.low + headroom - in_slots - low)))


def choose(
    waiting: Sequence[Waiting],
    given: Shares,
    *,
    room: Room,
    now_us: int,
    ageing: timedelta,
) -> tuple[list[Waiting], Shares]:
    """Return the next jobs to publish, in order, and how the work is shared with them.

    A preview finds room besides if there is any left, or else among the others. A low job finds room that is nobody
    else's, even where it has waited so long that it goes first.
    Lanes go in their order, and a job moves up one lane for each ``ageing`` that it has waited. Within a lane the team
    goes first that was given least; then the older job. What teams were given is measured in virtual time, so that one
    that comes back after a pause begins beside the others instead of catching up (start-time fair queueing: Goyal,
    Vin, Cheng, 1996).

    Args:
        waiting: The oldest jobs of each queue, each queue's in order; one more than find room if there are so many, and
            previews alone if no others do.
        given: How the work was shared so far.
        room: How many jobs at most.
        now_us: The time in microseconds.
        ageing: See above.
    """
    queues = defaultdict[Queue, deque[Waiting]](deque)
    for job in waiting:
        queues[job.queue].append(job)
    clock, shares = given.clock, dict(given.teams)
    slots, besides, low = room
    chosen: list[Waiting] = []

    def turn(job: Waiting) -> tuple[int, int, int, str]:
        waited = timedelta(microseconds=max(0, now_us - job.accepted_us))
        lane = max(0, LANES.index(job.queue.lane) - waited // ageing)
        return lane, _start(job.queue.team_id), job.accepted_us, job.job_id

    def _start(team_id: TeamId) -> int:
        return max(clock, shares.get(team_id, 0))

    def fits(job: Waiting) -> bool:
        if job.queue.lane is Lane.LOW:
            return low > 0
        return bool(slots or (besides and job.queue.lane is Lane.PREVIEW))

    while fitting := [queue for queue, own in queues.items() if fits(own[0])]:
        queue = min(fitting, key=lambda queue: turn(queues[queue][0]))
        job = queues[queue].popleft()
        if besides and queue.lane is Lane.PREVIEW:
            besides -= 1
        else:
            slots -= queue.lane is not Lane.LOW
            low -= 1
        chosen.append(job)
        shares[queue.team_id] = _start(queue.team_id) + job.work
        if not queues[queue]:
            del queues[queue]
        # As long as anybody waits, the clock is the share of who was given least; low jobs hold nobody's back.
        rivals = [other for other in queues if other.lane is not Lane.LOW] or list(queues)
        if room.slots:  # or else nobody knows who waits
            clock = max(clock, min((_start(other.team_id) for other in rivals), default=shares[queue.team_id]))
    return chosen, Shares(clock, shares)
