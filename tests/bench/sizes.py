"""What a job leaves behind: memory and log of the records server, calls of the object storage.

10,000 jobs of one variation over HTTP, each with an ``Idempotency-Key``, through API, dispatcher, broker and two
workers whose model takes no time; records and broker are one Valkey that syncs every write and does not rewrite its
log. Then a time without jobs, 200 uploads, and one job that takes long.
"""

import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import redis
from prometheus_client.parser import text_string_to_metric_families

from shared.connections import run
from shared.job_index import EVERYWHERE, index
from shared.jobs import JobStatus
from shared.keys import create_key
from tests import servers
from tests.bench.accept import OPEN
from tests.samples import encoded, picture
from tests.servers import free_port, wait_until
from tests.stack import upload
from tests.yard import Yard

JOBS: Final = 10_000
CALLERS: Final = 8
UPLOADS: Final = 200
LONG: Final = 30.0  #: seconds without jobs, and of the long job
PROMPT: Final = {"megapixels": "0.25", "num_inference_steps": 4, "format": "jpg"}


class Town:
    """All that takes part, and what it has used so far."""

    def __init__(self, folder: Path, living: ExitStack) -> None:
        self.yard = Yard(folder, living, OPEN)
        self.yard.records.config_set("auto-aof-rewrite-percentage", 0)
        self._ports = [free_port() for _ in range(3)]
        self._workers = [self.yard.worker(f"quick-{port}", pace=0, metrics_port=port) for port in self._ports[:2]]
        metrics = {"REDUXQ_API__METRICS_PORT": str(self._ports[2])}
        url = living.enter_context(servers.api(folder, self.yard.environment | metrics))
        key = run(self.yard.records, create_key("bench", "somebody"))
        self.client = living.enter_context(httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=60))
        self.source = upload(self.client, encoded(picture(), "PNG"))["key"]

    def submit(self, **more: Any) -> None:
        body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "async": True}
        prompt = {"imageUrl": self.source, **PROMPT, **more}
        headers = {"Idempotency-Key": str(uuid4())}
        self.client.post("/api/features", json=body | {"promptObject": prompt}, headers=headers).raise_for_status()

    def slow_down(self) -> None:
        """Replace the workers by one that takes its time."""
        for worker in self._workers:
            worker.terminate()
            worker.wait()
        self.yard.worker("slow", pace=LONG / 50)

    def done(self) -> int:
        return int(str(self.yard.records.zcard(index(EVERYWHERE, JobStatus.SUCCEEDED))))

    def storage_calls(self) -> Counter[str]:
        counts = Counter[str]()
        for port in self._ports:
            page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            for sample in chain.from_iterable(family.samples for family in text_string_to_metric_families(page)):
                if sample.name == "reduxq_storage_seconds_count":
                    counts[sample.labels["operation"]] += int(sample.value)
        return counts


def logged(records: redis.Redis) -> int:
    """Return the bytes of the log of all commands so far."""
    told: Any = records.info("persistence")
    return int(told["aof_current_size"])


def memory(records: redis.Redis) -> int:
    """Return the bytes that the server holds."""
    told: Any = records.info("memory")
    return int(told["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sizes", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    jobs: int = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        town = Town(Path(folder), living)
        records = town.yard.records
        before, bytes_before, began = memory(records), logged(records), time.monotonic()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(lambda _: town.submit(), range(jobs)))
        wait_until(lambda: town.done() == jobs, 3600)
        took, written = time.monotonic() - began, logged(records) - bytes_before
        bytes_before = logged(records)
        time.sleep(LONG)
        idle = (logged(records) - bytes_before) / LONG
        held, calls = memory(records) - before, town.storage_calls()
        for _ in range(UPLOADS):
            upload(town.client, encoded(picture(), "PNG"))
        asset = (memory(records) - before - held) / UPLOADS
        town.slow_down()
        bytes_before, slowly = logged(records), time.monotonic()
        town.submit(num_inference_steps=50)
        wait_until(lambda: town.done() == jobs + 1, 300)
        slowly = time.monotonic() - slowly
        running = (logged(records) - bytes_before - slowly * idle) / slowly
        print(f"{held / jobs:8.0f} bytes of memory for a job that has ended")
        print(f"{asset:8.0f} bytes of memory for an upload")
        print(f"{(written - took * idle) / jobs:8.0f} bytes of log for a job's life, {took:.0f} s for all")
        print(f"{idle:8.0f} bytes of log in a second without jobs, two workers and a dispatcher")
        print(f"{running:8.0f} bytes of log more in a second of a job that runs")
        print(f"{dict(calls)} calls of the storage, one upload among them")


if __name__ == "__main__":
    main()
