"""How often a living worker loses a job because the machine is too busy to renew its lease: it must be never.

One process more than there are cores spins, while two workers run long jobs back to back with default settings.
``python -m tests.bench.expiries --seconds 3600``
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from shared.ids import JobId
from tests.faults.town import Town

STEPS, PACE = 50, 0.2  #: seconds a step: 10 s a job and more, longer than a lease
WORKERS = 2
SAY = 60.0  #: seconds between two lines


def spin(nice: int) -> None:
    os.nice(nice)
    while True:
        pass


class Watch:
    """Keeps the workers busy and counts what they lost."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._open: list[JobId] = []
        self.done = self.lost = 0

    def look(self) -> None:
        ended = [job_id for job_id in self._open if self._town.stored(job_id).finished]
        self._open = [job_id for job_id in self._open if job_id not in ended]
        self.done += len(ended)
        self.lost += sum(self._town.stored(job_id).attempt - 1 for job_id in ended)
        while len(self._open) < 2 * WORKERS:
            self._open.append(self._town.submit(num_inference_steps=STEPS))

    def lost_so_far(self) -> int:
        return self.lost + sum(max(0, self._town.stored(job_id).attempt - 1) for job_id in self._open)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.expiries", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--nice", type=int, default=0, help="of what spins; 0 is as urgent as the workers")
    seconds, nice = vars(parser.parse_args()).values()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        town = Town(Path(folder), living, {}, workers=WORKERS, pace=PACE)
        watch, began, said = Watch(town), time.monotonic(), time.monotonic()
        spinning = [
            multiprocessing.Process(target=spin, args=(nice,), daemon=True) for _ in range((os.cpu_count() or 1) + 1)
        ]
        for one in spinning:
            one.start()
        psutil.cpu_percent()
        while time.monotonic() - began < seconds:
            watch.look()
            time.sleep(0.5)
            if time.monotonic() - said >= SAY:
                said = time.monotonic()
                tell(watch, said - began)
        tell(watch, time.monotonic() - began)
        for one in spinning:
            one.kill()
        town.crew.end()


def tell(watch: Watch, seconds: float) -> None:
    load = f"cores {psutil.cpu_percent():.0f} % busy, load {os.getloadavg()[0]:.1f}"
    print(
        f"{seconds:8.0f} s  {watch.done} jobs done, {watch.lost_so_far()} leases lost by living workers; {load}",
        flush=True,
    )


if __name__ == "__main__":
    main()
