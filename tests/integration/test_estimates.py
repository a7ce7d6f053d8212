"""What a record says of its turn, beside what comes true under a real dispatcher and a real worker."""

import time
from typing import NamedTuple

from shared.connections import run
from shared.ids import JobId
from shared.job_store import Report
from shared.jobs import JobStatus
from tests import queues
from tests.servers import wait_until
from tests.yard import STORE, Yard

JOBS = 10
FACTOR = 3  #: an estimate is between a third and three times the truth


class Look(NamedTuple):
    at: float  #: Unix time
    found: Report


def test_positions_fall_to_one_and_estimates_come_true_within_a_factor_of_three(yard: Yard) -> None:
    yard.worker("one", pace=0.05)
    yard.wait_for(yard.accept(num_inference_steps=10), JobStatus.SUCCEEDED)  # from it the speed is known
    wait_until(lambda: run(yard.records, queues.told()).speed)
    jobs = [yard.accept(num_inference_steps=10) for _ in range(JOBS)]
    seen: dict[JobId, list[Look]] = {job: [] for job in jobs}
    wait_until(lambda: run(yard.records, queues.told()).running)  # the dispatcher has told what waits
    while any(not yard.stored(job).finished for job in jobs):
        for job in jobs:
            found = run(yard.records, STORE.report(job))
            assert found
            seen[job].append(Look(time.time(), found))
        time.sleep(0.1)
    positions = [look.found.queue_position for look in seen[jobs[-1]]]
    known = [position for position in positions if position]
    assert known[0] >= JOBS - 5  # some run, as many as the worker has slots
    assert known[-1] == 1
    ratios = []
    for job, looks in seen.items():
        ended = yard.stored(job).finished_at
        assert ended
        for at, found in looks:
            left = ended.timestamp() - at
            if left > 1:
                assert found.estimated_seconds is not None
                ratios.append(found.estimated_seconds / left)
    assert len(ratios) > 2 * JOBS
    assert min(ratios) > 1 / FACTOR
    assert max(ratios) < FACTOR
