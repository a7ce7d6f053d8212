"""Servers that freeze, die and come back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import presence
from shared.connections import connect, run
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobStatus
from shared.keys import create_key
from shared.object_store import ObjectStore
from shared.queue import QUEUE
from shared.transitions import finish
from tests import queues, servers
from tests.samples import MODEL, NOW, encoded, fund, picture, record, start, variations_of
from tests.servers import wait_until
from tests.stack import feature, feature_body, upload

STORE = JobStore(timedelta(seconds=1))
SLOW = pytest.mark.slow


@contextmanager
def frozen(records: redis.Redis) -> Iterator[None]:
    """Stop the server's process without its connections noticing."""
    pid = _pid(records)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _pid(records: redis.Redis) -> int:
    info: Any = records.info("server")
    return int(info["process_id"])


@pytest.fixture
def client(tmp_path: Path, valkey: str, records: redis.Redis, objects: ObjectStore, s3: str) -> Iterator[httpx.Client]:
    """A client of an API that no worker stands behind."""
    key = run(records, create_key("lab", "Ada"))
    environment = {"REDUXQ_API__WAIT_SECONDS": "1"} | servers.settings_for(valkey, s3)
    with (
        servers.api(tmp_path, environment) as url,
        httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=30) as client,
    ):
        yield client


@contextmanager
def killed(records: redis.Redis) -> Iterator[None]:
    """Kill the server's process; nobody starts it again."""
    os.kill(_pid(records), signal.SIGKILL)
    yield


def require_503(client: httpx.Client, source: str) -> None:
    """Send what a client may send; each is to be told within 2 s that it may try again."""
    for method, path, body in (
        ("POST", "/api/features", feature_body(source)),
        ("GET", "/api/results/x", None),
        ("GET", "/readyz", None),
    ):
        started = time.monotonic()
        answer = client.request(method, path, json=body)
        assert time.monotonic() - started < 2
        assert answer.status_code == 503
        if body:
            assert answer.headers["retry-after"] == "2"


def test_a_records_server_that_is_down_is_answered_with_503_within_two_seconds(
    client: httpx.Client, records: redis.Redis
) -> None:
    source = upload(client, encoded(picture(), "PNG"))["key"]
    with killed(records):
        require_503(client, source)


def test_a_frozen_records_server_is_answered_with_503_within_two_seconds(
    client: httpx.Client, records: redis.Redis
) -> None:
    source = upload(client, encoded(picture(), "PNG"))["key"]
    with frozen(records):
        require_503(client, source)
        answer = client.post("/api/assets", files={"asset": ("a.png", encoded(picture(), "PNG"))})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["errorCode"] == "SERVICE_UNAVAILABLE"
    assert client.get("/api/results/x").status_code == 200


def test_a_blocking_call_whose_time_runs_out_gets_the_processing_record(client: httpx.Client) -> None:
    source = upload(client, encoded(picture(), "PNG"))["key"]
    started = time.monotonic()
    answer = feature(client, source, wait=True)
    assert 1 <= time.monotonic() - started < 2
    assert answer["status"] == "PROCESSING"
    assert answer["additionalData"]["queuePosition"] == 1


def test_an_accepted_job_survives_the_death_of_the_records_server(tmp_path: Path) -> None:
    jobs = [record() for _ in range(50)]
    with servers.valkey(tmp_path) as url, connect(url) as records:
        fund(records)
        for job in jobs:
            run(records, STORE.accept(job))
        os.kill(_pid(records), signal.SIGKILL)
    with servers.valkey(tmp_path) as url, connect(url) as records:
        assert [run(records, STORE.get(job.id)) for job in jobs] == jobs
        assert set(run(records, queues.queued_jobs())) == {job.id for job in jobs}


@pytest.mark.parametrize("module", ["api.dispatcher", *(pytest.param(name, marks=SLOW) for name in ("api", "worker"))])
def test_a_process_refuses_a_records_server_that_could_forget_with_one_clear_line(
    tmp_path: Path, s3: str, module: str
) -> None:
    with servers.valkey(tmp_path, appendonly="no") as url:
        environment = os.environ | servers.settings_for(url, s3)
        command = [sys.executable, "-m", module]
        ended = subprocess.run(command, env=environment, cwd=servers.ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "would forget accepted jobs" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_storage_that_is_away_leaves_nothing_of_an_upload(tmp_path: Path, valkey: str, records: redis.Redis) -> None:
    key = run(records, create_key("lab", "Ada"))
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    with servers.api(tmp_path, servers.settings_for(valkey, nowhere)) as url:
        files = {"asset": ("a.png", encoded(picture(), "PNG"))}
        answer = httpx.post(f"{url}/api/assets", files=files, headers={"API-KEY": key}, timeout=60)
    assert answer.status_code == 503
    assert "object storage" in answer.json()["message"]
    assert records.keys("asset:*") == []


@pytest.fixture
def dispatcher(tmp_path: Path, valkey: str, s3: str) -> Iterator[redis.Redis]:
    """A dispatcher with short times and a worker that says it lives; gives the broker's client."""
    environment = {"REDUXQ_JOBS__LEASE_SECONDS": "1", "REDUXQ_DISPATCHER__REPUBLISH_SECONDS": "1"}
    command = [sys.executable, "-m", "api.dispatcher"]
    log = tmp_path / "dispatcher.log"
    with (
        servers.process(command, log, environment | servers.settings_for(valkey, s3)),
        connect(f"{valkey}/1") as broker,
        connect(valkey) as records,
    ):
        wait_until(lambda: run(records, presence.leader()))
        run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
        yield broker


def test_no_more_is_published_than_workers_can_take(dispatcher: redis.Redis, records: redis.Redis) -> None:
    jobs = [record(created_at=datetime.now(UTC)) for _ in range(6)]
    for job in jobs:
        run(records, STORE.accept(job))
    wait_until(lambda: dispatcher.llen(QUEUE) == 2)
    assert set(run(records, queues.published_jobs())) == {job.id for job in jobs[:2]}
    run(records, STORE.update(jobs[0].id, start))
    time.sleep(0.7)
    assert set(run(records, queues.published_jobs())) == {jobs[1].id}


def test_jobs_whose_messages_a_wiped_broker_lost_are_published_again(
    dispatcher: redis.Redis, records: redis.Redis
) -> None:
    run(records, STORE.accept(record()))
    wait_until(lambda: dispatcher.llen(QUEUE) == 1)
    dispatcher.flushdb()
    wait_until(lambda: dispatcher.llen(QUEUE) == 1, 5)


def test_a_job_whose_worker_fell_silent_is_taken_back_and_given_up_after_the_limit(
    dispatcher: redis.Redis, records: redis.Redis
) -> None:
    job = record()
    run(records, STORE.accept(job))
    for attempt in (1, 2, 3):
        run(records, STORE.update(job.id, start))
        wait_until(lambda: _failed_attempts(records, job.id) == attempt, 5)  # noqa: B023  used at once
    ended = run(records, STORE.get(job.id))
    assert ended is not None
    assert ended.status is JobStatus.FAILED
    assert ended.failure is not None
    assert ended.failure.message == "3 attempts failed; the last: its worker fell silent"


def _failed_attempts(records: redis.Redis, job_id: JobId) -> int:
    job = run(records, STORE.get(job_id))
    return job.failed_attempts if job else -1


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_a_second_dispatcher_takes_over_within_three_seconds_when_the_first_is_killed_or_frozen(
    tmp_path: Path, valkey: str, s3: str, harm: signal.Signals
) -> None:
    command, environment = [sys.executable, "-m", "api.dispatcher"], servers.settings_for(valkey, s3)
    with (
        connect(valkey) as records,
        connect(f"{valkey}/1") as broker,
        servers.process(command, tmp_path / "1.log", environment) as first,
    ):
        fund(records)
        wait_until(lambda: run(records, presence.leader()))
        with servers.process(command, tmp_path / "2.log", environment):
            run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
            time.sleep(1.5)
            led = run(records, presence.leader())
            first.send_signal(harm)
            run(records, STORE.accept(record()))
            wait_until(lambda: broker.llen(QUEUE) == 1, 3)
            assert run(records, presence.leader()) != led
            first.kill()


def test_a_blocked_caller_is_answered_when_the_api_must_go(
    tmp_path: Path, valkey: str, records: redis.Redis, objects: ObjectStore, s3: str
) -> None:
    key = run(records, create_key("lab", "Ada"))
    port = servers.free_port()
    environment = servers.settings_for(valkey, s3) | {"REDUXQ_API__PORT": str(port)}
    with (
        servers.process([sys.executable, "-m", "api"], tmp_path / "api.log", environment) as api,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"API-KEY": key}, timeout=30) as client,
        ThreadPoolExecutor() as pool,
    ):
        wait_until(lambda: servers.listens(port))
        source = upload(client, encoded(picture(), "PNG"))["key"]
        blocked = pool.submit(feature, client, source, wait=True)
        wait_until(lambda: run(records, queues.queued_jobs()))
        api.terminate()
        assert blocked.result(5)["status"] == "PROCESSING"
        assert api.wait(10) == 0


def test_a_blocked_caller_gets_its_job_although_the_records_server_was_restarted(
    tmp_path: Path, objects: ObjectStore, s3: str
) -> None:
    folder, port = tmp_path / "valkey", servers.free_port()
    with ThreadPoolExecutor() as pool, ExitStack() as living:
        with servers.valkey(folder, port=port) as url, connect(url) as records:
            api_url = living.enter_context(servers.api(tmp_path, servers.settings_for(url, s3)))
            headers = {"API-KEY": run(records, create_key("lab", "Ada"))}
            client = living.enter_context(httpx.Client(base_url=api_url, headers=headers, timeout=30))
            source = upload(client, encoded(picture(), "PNG"))["key"]
            blocked = pool.submit(feature, client, source, wait=True)
            wait_until(lambda: run(records, queues.queued_jobs()))
            (job_id,) = run(records, queues.queued_jobs())
        time.sleep(1)
        assert not blocked.done()
        with servers.valkey(folder, port=port) as url, connect(url) as records:
            job = run(records, STORE.update(job_id, start))
            done = partial(finish, attempt=1, variations=variations_of(job), model=MODEL, timings={}, now=NOW)
            run(records, STORE.update(job_id, done))
            assert blocked.result(10)["status"] == "SUCCESS"
