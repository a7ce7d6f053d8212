"""How soon the engine is free when a job is canceled over HTTP in its middle, in ticks: calls of the model.

A tick that runs when the worker hears of the cancel ends as it would; none may begin after it. Run by ``make bench``.
"""

import argparse
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.overhead import Service
from tests.servers import wait_until
from tests.stack import feature

CANCELS = 30
PACE, ROWS = 0.05, 4  #: seconds for a row's step; rows
TICK = PACE * ROWS  #: seconds
GOAL = 1.0  #: ticks after the worker hears of it


def cancel(service: Service) -> tuple[float, int]:
    """Cancel a job; return how many ticks later its last one ended, and how many began after the answer."""
    before = len(service.calls())
    job = feature(service.client, service.source, num_outputs=ROWS, num_inference_steps=50)["uuid"]
    wait_until(lambda: len(service.calls()) > before + 1)
    time.sleep(random.uniform(0, TICK))
    asked_at = time.time()
    service.client.post(f"/api/results/{job}/cancel").raise_for_status()
    answered_at = time.time()
    time.sleep(3 * TICK)
    calls = service.calls()
    return (calls[-1].ended - asked_at) / TICK, sum(call.began > answered_at for call in calls)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cancel", description=__doc__)
    parser.add_argument("--cancels", type=int, default=CANCELS)
    cancels = parser.parse_args().cancels
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        service = Service(Path(folder), living, PACE)
        ticks, begun = zip(*(cancel(service) for _ in range(cancels)), strict=True)
    median, most = statistics.median(ticks), max(ticks)
    print(
        f"{median:8.2f} ticks of {TICK:g} s from the cancel until the engine is free, "
        f"median of {cancels} (goal: {GOAL:g} and what it takes to hear of it); {most:.2f} at most"
    )
    print(f"{sum(map(bool, begun)):8d} jobs took another step after the cancel was answered, {max(begun)} at most")


if __name__ == "__main__":
    main()
