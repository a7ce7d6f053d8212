"""Accepting 10,000 items in one request, what memory that takes, and whom they hold up while they wait.

The interactive jobs come over HTTP one after another, with an empty queue and then beside a batch of another team whose
items are as large. Everything is real but the model, which sleeps for each step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import psutil

from shared.connections import run
from shared.jobs import JobStatus
from shared.keys import create_key
from tests.mill import Mill
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.stack import feature, upload

ITEMS, JOBS = 10_000, 12
ENDLESS = 10**12  #: credits
PACE = 0.05  #: seconds for a step
LARGE: dict[str, Any] = {"megapixels": "1", "num_inference_steps": 28}
KINDS: dict[str, dict[str, Any]] = {"preview": {"megapixels": "0.25", "num_inference_steps": 4}, "normal job": LARGE}


@contextmanager
def peak(process: psutil.Process) -> Iterator[list[int]]:
    """Give the most memory, in bytes, that a process had resident within the block."""
    stop, most = Event(), [process.memory_info().rss]

    def look() -> None:
        while not stop.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss)

    watching = Thread(target=look)
    watching.start()
    try:
        yield most
    finally:
        stop.set()
        watching.join()


def accept(mill: Mill, items: int) -> str:
    """Send two batches, the first of which warms the API up; return the id of the large one, which waits."""
    api = next(each for each in psutil.Process().children() if each.cmdline()[-2:] == ["-m", "api"])
    mill.client.post(f"/api/batches/{mill.send(*[{}] * 200)['uuid']}/cancel")
    before = api.memory_info().rss
    lines = [{"customId": str(number)} for number in range(items)]
    with peak(api) as most:
        began = time.perf_counter()
        batch = mill.send(*lines, defaults=LARGE)
        seconds = time.perf_counter() - began
    assert batch["counts"]["total"] == items
    print(f"{seconds:8.2f} s for {items} items in one request (asked: 30 s for 10,000)")
    print(f"{(most[0] - before) / 1e6:8.1f} MB more memory in the API at most, of {before / 1e6:.0f} MB before")
    return str(batch["uuid"])


def times(mill: Mill, client: httpx.Client, source: str, jobs: int) -> dict[str, list[float]]:
    """Return seconds from acceptance to the end of jobs of each kind."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(jobs):
        for kind, prompt in KINDS.items():
            job = mill.wait_for(feature(client, source, **prompt)["uuid"], JobStatus.SUCCEEDED, seconds=120)
            assert job.finished_at
            found[kind].append((job.finished_at - job.created_at).total_seconds())
    return found


def measure(items: int, jobs: int, pace: float) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        mill = Mill(Path(folder), living)
        for place in (*mill.records.scan_iter("user:*"), f"team:{mill.records.hget('team_ids', 'lab')}"):
            mill.records.hset(place, mapping=dict.fromkeys(("credit", "credit_left"), ENDLESS))
        mill.worker("one", pace=pace)
        key = run(mill.records, create_key("studio", "somebody"))
        other = httpx.Client(base_url=mill.client.base_url, headers={"API-KEY": key}, timeout=60)
        client = living.enter_context(other)
        source = upload(client, encoded(picture(), "PNG"))["key"]
        alone = times(mill, client, source, jobs)
        uuid = accept(mill, items)
        wait_until(lambda: mill.read(uuid)["counts"]["succeeded"], 60)
        beside = times(mill, client, source, jobs)
        assert mill.read(uuid)["status"] == "PROCESSING"
    for kind in KINDS:
        one, two = statistics.median(alone[kind]), statistics.median(beside[kind])
        told = f"{one:.2f} s with an empty queue, {two:.2f} s beside the batch, {max(beside[kind]):.2f} at most"
        print(f"{two / one:8.2f} times for a {kind}, medians: {told}")
    print(f"{28 * pace:8.2f} s is what the model takes for a normal job or an item of the batch")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.batches", description=__doc__)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--jobs", type=int, default=JOBS, help="interactive ones of each kind")
    parser.add_argument("--pace", type=float, default=PACE, help="seconds for a step")
    chosen = parser.parse_args()
    measure(chosen.items, chosen.jobs, chosen.pace)


if __name__ == "__main__":
    main()
