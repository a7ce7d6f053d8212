"""What a job costs beside its model and the encoding of its picture: milliseconds from the request to the answer.

One caller asks over HTTP, blocked until the job has ended, then asks again; and several at a time. The model takes no
time; the picture's encoding is measured and taken off. Beside it a bare Celery task that reads the same source and
writes one object of like size, its result in Redis: no key, no record, no credits, no fairness, no lease. Valkey syncs
every write of both. Run by ``make bench``.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import urllib3
from celery import Celery

from shared.connections import run
from shared.ids import JobId
from shared.jobs import JobRecord
from shared.keys import create_key
from tests import servers
from tests.bench.accept import used
from tests.bench.busy import Span, spans_in
from tests.samples import encoded, picture
from tests.stack import feature_body, upload
from tests.yard import Yard

JOBS, TURNS = 300, 6  #: in so many turns of the two
CALLERS = 8
STEPS = 28  #: so many that no job is a preview; a JPEG, because other files take long to encode
GOAL = 10.0  #: ms
PARTS = ("accepted", "claimed", "source read", "model", "stored, unless encoded", "finished", "answered")


class Asked(NamedTuple):
    """One job as its caller saw it."""

    job_id: JobId
    began: float  #: seconds since the epoch
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Service:
    """The API and one worker on servers of their own.

    Args:
        folder: For data and logs.
        living: Ends all of it.
        pace: Seconds that the worker's model takes for a row's step.
    """

    def __init__(self, folder: Path, living: ExitStack, pace: float) -> None:
        self.yard = Yard(folder, living, {"PHOTOS": "1", "REDUXQ_LOG__FORMAT": "json"})
        key = run(self.yard.records, create_key("bench", "somebody"))
        url = living.enter_context(servers.api(folder, self.yard.environment))
        self.yard.worker("worker", pace=pace)
        self.client = living.enter_context(httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=60))
        self.source = upload(self.client, encoded(picture(), "PNG"))["key"]
        # The client above takes 0.3 ms more for a call, which are not the service's.
        self._pool = living.enter_context(urllib3.connection_from_url(url, maxsize=CALLERS, headers={"API-KEY": key}))

    def ask(self, _: int) -> Asked:
        """Have one variation made."""
        body = feature_body(self.source, num_inference_steps=STEPS, format="jpg")
        began = time.time()
        answer = self._pool.request("POST", "/api/features", json=body).json()
        ended = time.time()
        job = answer["aiRecord"]
        assert job["status"] == "SUCCESS", job
        return Asked(JobId(job["uuid"]), began, ended)

    def calls(self) -> list[Span]:
        """Return when the model was at work so far."""
        return spans_in(self.yard.log("worker"))

    def encodings(self) -> list[float]:
        """Return the seconds that encoding took, picture by picture."""
        lines = self.yard.log("worker").splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith("encode ")]


class Bare:
    """A Celery worker with its task, on the same servers."""

    def __init__(self, ours: Service, living: ExitStack) -> None:
        url = ours.yard.environment["REDUXQ_BROKER__URL"].replace("/1", "/2")
        command = [sys.executable, "-m", "celery", "-A", "tests.bench.bare_task", "worker", "--pool", "threads"]
        environment = ours.yard.environment | {"REDUXQ_BROKER__URL": url}
        living.enter_context(
            servers.process([*command, "--concurrency", "3"], ours.yard.folder / "bare.log", environment)
        )
        self._app = Celery(broker=url, backend=url, set_as_current=False)
        self._source = ours.source

    def ask(self, _: int) -> Asked:
        began = time.time()
        result = self._app.send_task("bare", (self._source,))
        result.get(timeout=60)
        return Asked(JobId(str(result.id)), began, time.time())


def parts(job: JobRecord, asked: Asked, encoding: float) -> list[float]:
    """Return the seconds from one station of a job to the next, in the order of :data:`PARTS`."""
    started, ended = _at(job.started_at), _at(job.finished_at)
    source, model, store = (job.timings[part] for part in ("sourceSeconds", "modelSeconds", "storeSeconds"))
    safety = job.timings.get("safetySeconds", 0.0)
    accepted = _at(job.created_at)
    before, within = (accepted - asked.began, started - accepted), (source, model, store - encoding)
    return [*before, *within, ended - started - source - model - safety - store, asked.ended - ended]


def _at(instant: datetime | None) -> float:
    assert instant
    return instant.timestamp()


def rate(ask: Callable[[int], Asked], jobs: int) -> float:
    """Return how many jobs a second several callers get through."""
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(ask, range(jobs)))
    return jobs / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS, help="of each side, one after another and then together")
    jobs: int = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        ours = Service(Path(folder), living, pace=0)
        bare = Bare(ours, living)
        for side in (ours, bare):
            side.ask(0)
        alone: dict[Any, list[Asked]] = {ours: [], bare: []}
        spent = Counter[str]()
        for _ in range(TURNS):
            for side, asked in alone.items():
                before = Counter(used())
                asked += [side.ask(number) for number in range(max(1, jobs // TURNS))]
                if side is ours:
                    spent += Counter(used()) - before
        encoding = ours.encodings()[1:]
        report(ours, alone[ours], encoding, [one.seconds for one in alone[bare]])
        for who, seconds in spent.most_common(6):
            print(f"{1e3 * seconds / len(alone[ours]):8.1f} ms  of a processor a job: {who}")
        rates = [(rate(ours.ask, jobs // TURNS), rate(bare.ask, jobs // TURNS)) for _ in range(TURNS)]
        own, other = (statistics.median(column) for column in zip(*rates, strict=True))
        told = f"{own:.0f}/s; the bare task {other:.0f}/s; {own / other:.2f} times as many"
        print(f"{1e3 / own:8.1f} ms  a job with {CALLERS} callers at a time, encoding and all: {told}")


def report(ours: Service, asked: list[Asked], encoding: list[float], bare: list[float]) -> None:
    """Print the medians of the jobs that ran one after another, and where ours spend their time."""
    net = [one.seconds - spent for one, spent in zip(asked, encoding, strict=True)]
    other = statistics.median(bare)
    median, tail = statistics.median(net), statistics.quantiles(net, n=20)[-1]
    shown = f"p95 {1e3 * tail:.1f} ms; encoding one picture of 0.25 MP: {1e3 * statistics.median(encoding):.1f} ms"
    print(f"{1e3 * median:8.1f} ms  a job over HTTP, without encoding, median of {len(net)} (goal: {GOAL:g}); {shown}")
    print(f"{1e3 * other:8.1f} ms  a bare Celery task; ours takes {median / other:.2f} times as long")
    stations = zip(
        *(parts(ours.yard.stored(one.job_id), one, spent) for one, spent in zip(asked, encoding, strict=True)),
        strict=True,
    )
    for part, seconds in zip(PARTS, stations, strict=True):
        print(f"{1e3 * statistics.median(seconds):8.1f} ms  of it: {part}")


if __name__ == "__main__":
    main()
