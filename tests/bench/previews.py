"""How long a preview waits while large jobs of another team take every slot, and more of them queue.

Previews come over HTTP one after another, each when the one before has ended, as somebody sends them who tries things
out. Everything is real but the model, which sleeps for each step, as long for a preview's as for a large one's. Beside
it the same without room for previews: they go first of all that wait, and wait for a slot. And the same in the order of
acceptance, as a queue has it that knows neither lanes nor teams. Run by ``make bench``.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from shared.connections import run
from shared.ids import JobId
from shared.jobs import JobStatus
from shared.keys import create_key
from tests import servers
from tests.samples import encoded, picture
from tests.stack import feature, upload
from tests.yard import LEASE, Yard

PREVIEWS, LARGE = 40, 20
FEW = 20  #: with fewer there is no 99th percentile
PACE = 0.125  #: seconds for a step: 3.5 s for 28 of them, the goal for an H200 at 1 megapixel
GOAL = 2.0  #: seconds, the 99th percentile
SEED = 1000  #: of the first preview


class Order(NamedTuple):
    """Who goes first."""

    name: str
    room: int  #: jobs that a worker takes besides, ahead of what it runs
    teams: tuple[str, str] = ("batch", "studio")  #: of the large jobs and of the previews
    settings: Mapping[str, str] = {}
    share: float = 1.0  #: of the previews


ORDERS: Final = (
    Order("ours", room=8),
    Order("ours without room besides", room=0),
    Order(
        "first in, first out",
        room=0,
        teams=("batch", "batch"),
        settings={"REDUXQ_DISPATCHER__AGEING_SECONDS": "0.001"},  # then only the age counts
        share=0.05,
    ),
)


class Wait(NamedTuple):
    """Seconds from a preview's acceptance."""

    claim: float  #: until a worker has it
    step: float  #: until its first step begins


class Bench:
    """One worker, and two clients."""

    def __init__(self, folder: Path, living: ExitStack, order: Order, pace: float) -> None:
        self.yard = Yard(folder, living, {**LEASE, **order.settings})
        url = living.enter_context(servers.api(folder, self.yard.environment))
        self.yard.worker("one", pace=pace, ahead=order.room)
        keys = [run(self.yard.records, create_key(team, "somebody")) for team in order.teams]
        clients = [httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=60) for key in keys]
        self._batch, self._studio = (living.enter_context(client) for client in clients)
        self._sources = [upload(client, encoded(picture(), "PNG"))["key"] for client in clients]
        self.large: list[JobId] = []

    def keep_waiting(self, count: int) -> None:
        """Let so many large jobs wait."""
        for _ in range(count - sum(not self.yard.stored(job_id).started_at for job_id in self.large)):
            job = feature(self._batch, self._sources[0], megapixels="1", num_inference_steps=28)
            self.large.append(job["uuid"])

    def preview(self, seed: int) -> Wait:
        uuid = feature(self._studio, self._sources[1], num_inference_steps=4, seed=seed)["uuid"]
        job = self.yard.wait_for(uuid, JobStatus.SUCCEEDED, seconds=300)
        assert job.started_at
        begun = next(line for line in self.yard.log("one").splitlines() if line.startswith(f"begin {seed} "))
        accepted = job.created_at.timestamp()
        return Wait(job.started_at.timestamp() - accepted, float(begun.split()[2]) - accepted)

    def finished(self) -> int:
        return sum(self.yard.stored(job_id).status is JobStatus.SUCCEEDED for job_id in self.large)


def measure(order: Order, previews: int, large: int, pace: float) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        bench, waits = Bench(Path(folder), living, order, pace), list[Wait]()
        bench.keep_waiting(large)
        bench.yard.denoising("one")
        began, before = time.monotonic(), bench.finished()
        for number in range(max(2, round(order.share * previews))):
            bench.keep_waiting(large)
            waits.append(bench.preview(SEED + number))
            time.sleep(random.uniform(0, 2 * pace))
        minutes = (time.monotonic() - began) / 60
        done = (bench.finished() - before) / minutes
    print(f"{order.name}: {len(waits)} previews; meanwhile {done:.0f} large jobs a minute")
    for what, seconds in zip(("a worker has it", "its first step"), zip(*waits, strict=True), strict=True):
        told = f"{statistics.median(seconds):8.3f} s median {max(seconds):8.3f} s most"
        if len(seconds) >= FEW:
            told += f" {statistics.quantiles(seconds, n=100, method='inclusive')[98]:8.3f} s p99"
        print(f"{told}, until {what}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.previews", description=__doc__)
    parser.add_argument("--previews", type=int, default=PREVIEWS)
    parser.add_argument("--large", type=int, default=LARGE, help="jobs that wait all the time")
    parser.add_argument("--pace", type=float, default=PACE, help="seconds for a step")
    chosen = parser.parse_args()
    print(f"{chosen.previews} previews beside {chosen.large} large jobs that wait; goal: p99 {GOAL:g} s")
    for order in ORDERS:
        measure(order, chosen.previews, chosen.large, chosen.pace)


if __name__ == "__main__":
    main()
