"""How soon a job runs again whose worker was killed: from the SIGKILL to the record's second start.

Two workers, default settings; the other worker is warm and idle. Counts only on a quiet machine. Run by ``make bench``.
"""

import argparse
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from shared.jobs import JobStatus
from tests.faults.town import Town
from tests.servers import wait_until

KILLS = 30
STEPS, PACE = 50, 0.02  #: seconds a step
RENEWAL = 1.5  #: seconds between two renewals of a lease, over which the moments of killing are spread
MEDIAN, MOST = 6.0, 10.0  #: seconds that it may take


def recovery(town: Town) -> float:
    """Kill a worker in the middle of a job and return how many seconds later its second attempt began."""
    town.crew.revive()
    wait_until(lambda: town.warm() == 2, 30)
    town.halts.ask("denoising")
    job_id = town.submit(num_inference_steps=STEPS)
    name = town.halted("denoising")
    time.sleep(random.uniform(0, RENEWAL))
    town.crew.kill(name)
    killed_at = time.time()
    town.halts.release()
    wait_until(lambda: town.stored(job_id).attempt == 2)
    started_at = town.stored(job_id).started_at
    assert started_at
    assert town.ended(job_id).status is JobStatus.SUCCEEDED
    return started_at.timestamp() - killed_at


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recover", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        town = Town(Path(folder), living, {}, workers=2, pace=PACE)
        seconds = [recovery(town) for _ in range(kills)]
        town.crew.end()
    median, most = statistics.median(seconds), max(seconds)
    print(f"{median:8.2f} s  from a worker's SIGKILL to its job's second start, median of {kills} (goal: {MEDIAN:g})")
    print(f"{most:8.2f} s  at most (goal: {MOST:g}); {min(seconds):.2f} s at least")


if __name__ == "__main__":
    main()
