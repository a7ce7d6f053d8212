"""Thousands of hostile files against the API: nothing breaks, nothing grows, and only pictures are stored."""

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest
import redis

from api.decoding import PATIENCE
from shared.connections import connect, run
from shared.keys import create_key
from tests import servers
from tests.hostile import scan_bomb, uploads
from tests.samples import encoded, picture

CONNECTIONS = 4
REFUSALS = {400, 413, 415}
API_MB = 400  #: what the API's own process may hold
DECODER_MB = 256 + 4 * 50 + 20 * 64  #: address space of one decoding process at most


@dataclass
class Api:
    """An API of its own, with servers of its own."""

    url: str
    key: str
    process: psutil.Process
    records: redis.Redis
    bucket: Path

    def post(self, client: httpx.Client, data: bytes) -> httpx.Response:
        files = {"asset": ("hostile.png", data)}
        return client.post(f"{self.url}/api/assets", files=files, headers={"API-KEY": self.key}, timeout=60)

    def stored(self) -> tuple[int, int]:
        """How many objects there are, and how many reserved keys."""
        return sum(path.is_file() for path in self.bucket.rglob("*")), len(self.records.keys("asset:*"))


@dataclass
class Memory:
    """Watches what the API and its decoding processes hold, in MB."""

    api: psutil.Process
    before: int = 0
    peak_api: int = 0
    peak_decoder: int = 0
    peak_all: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._watch()
        self.before = self.peak_api
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._watch()

    def _watch(self) -> None:
        own, decoders = _megabytes(self.api), [_megabytes(child) for child in self.api.children()]
        self.peak_api = max(self.peak_api, own)
        self.peak_decoder = max(self.peak_decoder, *decoders, 0)
        self.peak_all = max(self.peak_all, own + sum(decoders))


def _megabytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss) // 10**6
    return 0


@pytest.fixture
def api(tmp_path: Path, valkey: str) -> Iterator[Api]:
    with servers.s3(tmp_path / "s3") as endpoint, connect(f"{valkey}/0") as records:
        key = run(records, create_key("team", "user"))
        environment = {"REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "1000000", "REDUXQ_LOG__LEVEL": "WARNING"}
        with servers.api(tmp_path, servers.settings_for(valkey, endpoint) | environment) as url:
            (process,) = [one for one in psutil.Process().children() if one.cmdline()[-2:] == ["-m", "api"]]
            yield Api(url, key, process, records, tmp_path / "s3" / "objects" / "tests")


def attack(api: Api, count: int) -> Counter[int]:
    """Send hostile files over several connections and count the statuses."""
    statuses: Counter[int] = Counter()
    files, lock = uploads(seed=count, count=count), threading.Lock()

    def send(_: int) -> None:
        with httpx.Client() as client:
            while True:
                with lock:
                    name, data = next(files, (None, b""))
                if name is None:
                    return
                answer = api.post(client, data)
                with lock:
                    statuses[answer.status_code] += 1
                check(name, answer)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, range(CONNECTIONS)))
    return statuses


def check(name: str, answer: httpx.Response) -> None:
    body: dict[str, Any] = answer.json()
    if answer.status_code == 200:
        assert body["asset"]["contentType"] in {"image/png", "image/jpeg", "image/webp"}, name
    else:
        assert answer.status_code in REFUSALS, (name, answer.text)
        assert body["success"] is False
        assert body["errorCode"] in {"INVALID_IMAGE", "UNSUPPORTED_MEDIA_TYPE", "PAYLOAD_TOO_LARGE"}, (name, body)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_hostile_files_break_nothing_and_only_pictures_are_stored(api: Api, count: int) -> None:
    with httpx.Client() as client:
        assert api.post(client, encoded(picture(), "PNG")).status_code == 200
        objects, reserved = api.stored()
        started = time.monotonic()
        with Memory(api.process) as memory:
            statuses = attack(api, count)
        seconds = time.monotonic() - started
        print(
            f"\n{count} files in {seconds:.0f} s: {dict(statuses)}; MB: API {memory.before} -> {memory.peak_api}, ",
            end="",
        )
        print(f"one decoder {memory.peak_decoder}, all {memory.peak_all}, afterwards {_megabytes(api.process)}")
        assert statuses.total() == count
        assert statuses[200] < count / 2
        assert api.stored() == (objects + statuses[200], reserved + statuses[200])
        assert memory.peak_api < API_MB
        assert memory.peak_decoder < DECODER_MB
        assert api.post(client, encoded(picture(), "PNG")).status_code == 200


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_decoding_processes_end_with_the_api_however_it_ends(api: Api, end: signal.Signals) -> None:
    with httpx.Client() as client:
        assert api.post(client, encoded(picture(), "PNG")).status_code == 200
    decoders = api.process.children()
    assert decoders
    api.process.send_signal(end)
    _, alive = psutil.wait_procs(decoders, timeout=10)
    assert not alive


@pytest.mark.slow
def test_a_decoding_process_that_hangs_does_not_outlive_a_killed_api_for_long(api: Api) -> None:
    with httpx.Client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.post, client, scan_bomb(7900, 5000))
        servers.wait_until(lambda: any(child.cpu_times().user > 2 for child in api.process.children()))
        (decoder,) = api.process.children()
        api.process.kill()
        assert isinstance(answer.exception(), httpx.TransportError)
    assert decoder.is_running()
    decoder.wait(PATIENCE + 5)


def test_the_same_files_are_made_in_every_run() -> None:
    first, second = (list(itertools.islice(uploads(seed=1, count=60), 60)) for _ in range(2))
    assert first == second
