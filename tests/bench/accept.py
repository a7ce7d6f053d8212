"""Accepting a job until it is in the broker: our HTTP API, a bare loop of ``apply_async``, BentoML's task submission.

All take turns in one run. Ours is whole: key, asset, Idempotency-Key, credits and record, synced to disk before the
answer, and the dispatcher, which publishes to a worker of endless slots; a round ends when every job is in the broker.
``apply_async`` publishes a bare message, one caller, into a Valkey of the same configuration. BentoML keeps its tasks
in SQLite; it is asked as we are, and its task ends at once. Run by ``make bench``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import httpx
import psutil
import redis
from celery import Celery

from shared import presence
from shared.connections import run
from shared.job_index import EVERYWHERE, index
from shared.jobs import JobStatus
from shared.keys import create_key
from shared.queue import QUEUE, TASK
from tests import servers
from tests.bench.load import Load, drive
from tests.ground import Ground
from tests.samples import encoded, picture

BENTOML = "bentoml==1.4.39"
ENVIRONMENT = servers.ROOT / ".venv-bench"  #: BentoML's own: it pins what we do not
ROUND = 15.0  #: seconds
CALLERS = 128  #: at a time, enough that no server process is without work while Valkey writes
ENDLESS = 10**15  #: slots, credits, requests
ALL = index(EVERYWHERE, JobStatus.QUEUED)
OPEN = {
    "REDUXQ_TEAMS__OPEN_JOBS": str(ENDLESS),
    "REDUXQ_TEAMS__REQUESTS_PER_MINUTE": str(ENDLESS),
    "REDUXQ_DISPATCHER__REPUBLISH_SECONDS": "86400",  # nobody takes the messages
    "REDUXQ_LOG__FORMAT": "json",
}


@dataclass
class Side:
    """One way to submit a job, with what its rounds found."""

    name: str
    play: Callable[["Side", float], None]  #: for so many seconds, and until all is done
    rates: list[float] = field(default_factory=list)  #: jobs per second
    latencies: list[float] = field(default_factory=list)  #: seconds
    lags: list[float] = field(default_factory=list)  #: seconds from a job's acceptance until it was seen in the broker

    def note(self, began: float, latencies: list[float]) -> None:
        self.rates.append(len(latencies) / (time.perf_counter() - began))
        self.latencies += latencies

    def line(self) -> str:
        middle, tail = percentile(self.latencies, 0.5), percentile(self.latencies, 0.99)
        spread = f"{min(self.rates):.0f} to {max(self.rates):.0f}"
        told = f"{self.rate:8.0f} jobs/s ({spread}), p50 {1e3 * middle:.1f} ms, p99 {1e3 * tail:.1f} ms"
        return f"{told} ({tail / middle:.1f} times p50): {self.name}"

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def body(asset: str, flag: str) -> bytes:
    """Return what both HTTP sides are sent, but for the name of the flag that asks for no waiting."""
    prompt = {"imageUrl": asset, "num_outputs": 1, "aspect_ratio": "1:1"}
    whole = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": prompt, flag: True}
    return json.dumps(whole).encode()


@contextmanager
def ours(folder: Path, *, apis: int) -> Iterator[Side]:
    """Run the service without a worker; one is announced that can hold any number of jobs."""
    with ExitStack() as living:
        ground = Ground(folder, living)
        records, environment = ground.records, ground.environment | OPEN
        broker = living.enter_context(redis.Redis.from_url(environment["REDUXQ_BROKER__URL"]))
        key = run(records, create_key("bench", "somebody"))
        for place in (*records.scan_iter("user:*"), f"team:{records.hget('team_ids', 'bench')}"):
            records.hset(place, mapping=dict.fromkeys(("credit", "credit_limit", "credit_left"), ENDLESS))
        life = presence.WorkerLife(slots=ENDLESS, speed=0)
        run(records, presence.announce_worker("bench", life, timedelta(days=1)))
        urls = [living.enter_context(servers.api(folder, environment)) for _ in range(apis)]
        dispatcher = [sys.executable, "-m", "api.dispatcher"]
        living.enter_context(servers.process(dispatcher, folder / "dispatcher.log", environment))
        client = living.enter_context(httpx.Client(base_url=urls[0], headers={"API-KEY": key}))
        uploaded = client.post("/api/assets", files={"asset": encoded(picture(), "PNG")})
        head = f"POST /api/features HTTP/1.1\r\nAPI-KEY: {key}\r\nIdempotency-Key: {{run}}-{{number}}\r\n"
        wanted = body(uploaded.json()["asset"]["key"], "async")

        def play(side: Side, seconds: float) -> None:
            broker.delete(QUEUE)
            before = records.zcard(ALL)
            with watched(broker) as seen:
                began = time.perf_counter()
                load = drive(Load(urls, head.replace("{run}", str(uuid4())), wanted, CALLERS, seconds))
                assert not load.refused, load.refused[0]
                servers.wait_until(lambda: broker.llen(QUEUE) == len(load.latencies), 60)
                side.note(began, load.latencies)
            accepted: Any = records.zrange(ALL, before, -1, withscores=True)
            side.lags += lags([at / 1e6 for _, at in accepted], seen)

        yield Side("ours: HTTP, record synced, published by the dispatcher", play)


@contextmanager
def watched(broker: redis.Redis) -> Iterator[list[tuple[float, int]]]:
    """Look at the broker's list for the time of the block: when, and how many there were."""
    seen: list[tuple[float, int]] = []
    stop = Event()

    def look() -> None:
        while not stop.wait(0.01):
            count: Any = broker.llen(QUEUE)
            seen.append((time.time(), count))

    watching = Thread(target=look)
    watching.start()
    try:
        yield seen
    finally:
        stop.set()
        watching.join()


def lags(accepted: list[float], seen: list[tuple[float, int]]) -> list[float]:
    """Return how long each job took to be seen; one team's jobs of one lane are published in order of acceptance."""
    found, looks = [], iter(seen)
    at, count = next(looks)
    for place, since in enumerate(accepted, start=1):
        while count < place:
            at, count = next(looks, (time.time(), place))
        found.append(at - since)
    return found


@contextmanager
def apply_async(folder: Path) -> Iterator[Side]:
    """A plain Celery application and one caller."""
    with servers.valkey(folder / "celery") as valkey, redis.Redis.from_url(f"{valkey}/1") as broker:
        app = Celery(broker=f"{valkey}/1", set_as_current=False)

        @app.task(name=TASK)
        def vary(job_id: str) -> None:
            """Never run."""

        def play(side: Side, seconds: float) -> None:
            broker.delete("celery")
            latencies = []
            began = last = time.perf_counter()
            while last < began + seconds:
                vary.apply_async((str(uuid4()),))
                now = time.perf_counter()
                latencies.append(now - last)
                last = now
            assert broker.llen("celery") == len(latencies)
            side.note(began, latencies)

        yield Side("a bare loop of apply_async: a message without a record", play)


@contextmanager
def bentoml(folder: Path) -> Iterator[Side]:
    """BentoML's server, with the task beside this file."""
    if not (ENVIRONMENT / "bin" / "bentoml").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "--quiet", BENTOML], check=True)
    port, here = servers.free_port(), str(Path(__file__).parent)
    serve = [str(ENVIRONMENT / "bin" / "bentoml"), "serve", "bento_service:Variator", "--working-dir", here]
    environment = {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", "PATH": os.environ["PATH"]}
    with servers.process([*serve, "--port", str(port)], folder / "bentoml.log", environment):
        url = f"http://127.0.0.1:{port}"
        servers.wait_until(lambda: servers.listens(port) and httpx.get(f"{url}/livez").is_success, 60)
        wanted = body("images/2026_01_02_03_04_05_678_901234567890.png", "queue")

        def play(side: Side, seconds: float) -> None:
            began = time.perf_counter()
            load = drive(Load([url], "POST /vary/submit HTTP/1.1\r\n", wanted, CALLERS, seconds))
            assert not load.refused, load.refused[0]
            side.note(began, load.latencies)

        yield Side(f"{BENTOML}: HTTP, a task in SQLite", play)


def used() -> dict[str, float]:
    """Return the processor seconds of this process and of those that it started."""
    everybody = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {" ".join(each.cmdline())[-60:]: sum(each.cpu_times()[:2]) for each in everybody}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="for each side")
    parser.add_argument("--apis", type=int, default=2, help="processes of the API, as replicas behind a balancer")
    chosen = parser.parse_args()
    seconds = chosen.seconds
    rounds = max(1, round(seconds / ROUND))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        sides = [
            stack.enter_context(side(Path(name))) for side in (partial(ours, apis=chosen.apis), apply_async, bentoml)
        ]
        for side in sides:
            side.play(Side("", side.play), 1)  # to warm it up
        before, spent = used(), dict[str, float]()
        for _ in range(rounds):
            for side in sides:
                before = used()
                side.play(side, seconds / rounds)
                if side is sides[0]:
                    spent = {who: spent.get(who, 0) + at - before.get(who, 0) for who, at in used().items()}
    print("\n".join(side.line() for side in sides))
    ratios = [[own / other for own, other in zip(sides[0].rates, side.rates, strict=True)] for side in sides[1:]]
    for side, found in zip(sides[1:], ratios, strict=True):
        print(f"{statistics.median(found):8.2f} times ({min(found):.2f} to {max(found):.2f}) {side.name}")
    late, usual = (1e3 * percentile(sides[0].lags, share) for share in (0.99, 0.5))
    print(f"{late:8.0f} ms from acceptance until a job is seen in the broker, p99; p50 {usual:.0f} ms")
    for who, cpu in sorted(spent.items(), key=lambda item: -item[1]):
        if share := round(100 * cpu / seconds):
            print(f"{share:8d} % of a core: {who}")


if __name__ == "__main__":
    main()
