"""How many messages, and for which jobs: pure functions, so that the order of work can be tested without a server."""

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import timedelta

from shared.backlog import LANES
from shared.dispatch_store import Shares, Waiting
from shared.ids import TeamId
from shared.job_index import Queue
from shared.jobs import Lane


def window(*, slots: int, running: int, under_way: int, headroom: int) -> int:
    """Return how many more messages may be published.

    Args:
        slots: Jobs that all living workers can hold; with none nothing is published.
        running: Jobs held now.
        under_way: Jobs published and not yet claimed.
        headroom: Messages beyond the free slots, so that none waits for the dispatcher.
    """
    return max(0, slots + headroom - running - under_way) if slots else 0


def choose(
    waiting: Sequence[Waiting], given: Shares, *, count: int, now_us: int, ageing: timedelta
) -> tuple[list[Waiting], Shares]:
    """Return the next jobs to publish, in order, and how the work is shared with them.

    Lanes go in their order, and a job moves up one lane for each ``ageing`` that it has waited. Within a lane the team
    goes first that was given least; then the older job. What teams were given is measured in virtual time, so that one
    that comes back after a pause begins beside the others instead of catching up (start-time fair queueing: Goyal,
    Vin, Cheng, 1996).

    Args:
        waiting: The oldest jobs of each queue, each queue's in order; one more than ``count`` if there are so many.
        given: How the work was shared so far.
        count: How many jobs at most.
        now_us: The time in microseconds.
        ageing: See above.
    """
    queues = defaultdict[Queue, deque[Waiting]](deque)
    for job in waiting:
        queues[job.queue].append(job)
    clock, shares = given.clock, dict(given.teams)
    chosen: list[Waiting] = []

    def turn(job: Waiting) -> tuple[int, int, int, str]:
        waited = timedelta(microseconds=max(0, now_us - job.accepted_us))
        lane = max(0, LANES.index(job.queue.lane) - waited // ageing)
        return lane, _start(job.queue.team_id), job.accepted_us, job.job_id

    def _start(team_id: TeamId) -> int:
        return max(clock, shares.get(team_id, 0))

    while queues and len(chosen) < count:
        queue = min(queues, key=lambda queue: turn(queues[queue][0]))
        job = queues[queue].popleft()
        chosen.append(job)
        shares[queue.team_id] = _start(queue.team_id) + job.work
        if not queues[queue]:
            del queues[queue]
        # As long as anybody waits, the clock is the share of who was given least; low jobs hold nobody's back.
        rivals = [other for other in queues if other.lane is not Lane.LOW] or list(queues)
        clock = max(clock, min((_start(other.team_id) for other in rivals), default=shares[queue.team_id]))
    return chosen, Shares(clock, shares)
