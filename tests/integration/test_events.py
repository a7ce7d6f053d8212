"""Watching jobs: what an EventSource is told, and what becomes of it when servers and clients go away."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
import uvicorn
from httpx_sse import ServerSentEvent, connect_sse

import api.events
from api.app import create_app
from shared import backlog
from shared.backlog import Backlog
from shared.connections import connect, run
from shared.ids import JobId
from shared.keys import check_key, create_key, revoke_key
from shared.object_store import ObjectStore
from shared.settings import Settings
from tests import servers
from tests.driven import Driven
from tests.servers import free_port, wait_until

Told = tuple[str, dict[str, Any]]


@contextmanager
def watching(client: httpx.Client, job: JobId, last: str = "") -> Iterator[Iterator[ServerSentEvent]]:
    """One connection, as an EventSource makes it."""
    headers = {"Last-Event-ID": last} if last else {}
    with connect_sse(client, "GET", f"/api/results/{job}/events", headers=headers) as source:
        source.response.raise_for_status()
        yield source.iter_sse()


def event_source(urls: list[str], key: str, job: JobId) -> Iterator[ServerSentEvent]:
    """As a browser's EventSource: connect again whenever a stream ends, with the last id, until 204 says stop."""
    last = ""
    for url in urls:
        headers = {"API-KEY": key, "Last-Event-ID": last}
        with (
            suppress(httpx.TransportError),
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
            connect_sse(client, "GET", f"/api/results/{job}/events") as source,
        ):
            if source.response.status_code == 204:
                return
            for event in source.iter_sse():
                last = event.id
                yield event
    raise AssertionError("nobody said stop")


def told(event: ServerSentEvent) -> Told:
    return event.event, event.json()


def test_a_watcher_is_told_of_every_state_until_the_end(driven: Driven) -> None:
    job = driven.accept()
    with watching(driven.client, job) as events:
        assert told(next(events)) == ("queued", {"queuePosition": 1, "estimatedSeconds": None})
        driven.begin(job)
        assert told(next(events)) == (
            "running",
            {"attempt": 1, "step": 0, "steps": 28, "each": [], "estimatedSeconds": None},
        )
        driven.step(job, 3, 4, 2)
        running = {"attempt": 1, "step": 3, "steps": 28, "each": [4, 2], "estimatedSeconds": None}
        assert told(next(events)) == ("running", running)
        driven.end(job)
        name, data = told(next(events))
        assert (name, data["aiRecord"]["status"]) == ("finished", "SUCCESS")
        assert data.keys() == driven.client.get(f"/api/results/{job}").json().keys()
        assert list(events) == []


def test_a_watcher_is_told_when_its_position_falls(driven: Driven) -> None:
    first, job = driven.accept(), driven.accept()
    team = driven.client.get("/users").json()["user"]["teams"][0]["team"]["uuid"]
    run(driven.records, backlog.put(Backlog(waiting={f"normal:{team}": (2, 2000)}, speed=100.0, workers=1)))
    with watching(driven.client, job) as events:
        name, data = told(next(events))
        assert (name, data["queuePosition"]) == ("queued", 2)
        assert data["estimatedSeconds"] > 0
        driven.begin(first)
        assert told(next(events))[1]["queuePosition"] == 1
    driven.records.delete(backlog.PLACE)


def test_the_end_is_told_without_waiting_for_the_next_look(driven: Driven) -> None:
    delays = []
    for _ in range(3):
        job = driven.accept()
        with watching(driven.client, job) as events:
            next(events)
            driven.begin(job)
            next(events)
            driven.end(job)
            ended = time.monotonic()
            assert next(events).event == "finished"
            delays.append(time.monotonic() - ended)
    assert sorted(delays)[1] < api.events.PERIOD / 5


def test_a_watcher_that_comes_back_is_told_only_what_is_newer(driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    driven.step(job, 3)
    with watching(driven.client, job) as events:
        seen = next(events).id
    with watching(driven.client, job, seen) as events:
        driven.step(job, 4)
        assert told(next(events))[1]["step"] == 4
    driven.end(job)
    with watching(driven.client, job, seen) as events:
        assert [event.event for event in events] == ["finished"]


def test_one_that_has_seen_the_end_is_told_to_stop(driven: Driven) -> None:
    job = driven.accept()
    driven.client.post(f"/api/results/{job}/cancel").raise_for_status()
    with watching(driven.client, job) as events:
        (end,) = events
    answer = driven.client.get(f"/api/results/{job}/events", headers={"Last-Event-ID": end.id})
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_watch_goes_on_at_another_process_when_its_own_is_killed(
    tmp_path: Path, driven: Driven, lone_api: tuple[str, str], s3: str
) -> None:
    two, valkey = lone_api
    job = driven.accept()
    with apart(tmp_path, valkey, s3) as other:
        one = str(other.client.base_url)
        events = event_source([one, one, two, two], driven.key, job)
        names = [next(events).event]
        driven.begin(job)
        names.append(next(events).event)
        os.kill(serving(one), signal.SIGKILL)
        driven.step(job, 5)
        assert told(next(events))[1]["step"] == 5
        driven.end(job)
        names += [event.event for event in events]
    assert names == ["queued", "running", "finished"]


def serving(url: str) -> int:
    """The id of the process that listens there."""
    port = httpx.URL(url).port
    for child in psutil.Process().children():
        if any(each.laddr.port == port for each in child.net_connections() if each.status == psutil.CONN_LISTEN):
            return child.pid
    raise AssertionError(url)


def test_a_process_that_is_told_to_end_lets_its_watchers_go_at_once(
    tmp_path: Path, lone_api: tuple[str, str], s3: str
) -> None:
    with apart(tmp_path, lone_api[1], s3) as driven, watching(driven.client, driven.accept()) as events:
        next(events)
        os.kill(serving(str(driven.client.base_url)), signal.SIGTERM)
        asked = time.monotonic()
        assert list(events) == []
        assert time.monotonic() - asked < 1
    assert "Traceback" not in (tmp_path / "api.log").read_text()


def test_a_watch_outlives_a_records_server_that_is_away(tmp_path: Path, objects: ObjectStore, s3: str) -> None:
    port = free_port()
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        valkey = first.enter_context(servers.valkey(tmp_path / "valkey", port=port))
        driven = stack.enter_context(apart(tmp_path, valkey, s3))
        job = driven.accept()
        events = stack.enter_context(watching(driven.client, job))
        assert next(events).event == "queued"
        first.close()
        assert driven.client.get(f"/api/results/{job}").status_code == 503
        stack.enter_context(servers.valkey(tmp_path / "valkey", port=port))
        driven.begin(job)
        assert next(events).event == "running"
        driven.end(job)
        assert next(events).event == "finished"
        assert "Traceback" not in (tmp_path / "api.log").read_text()


@contextmanager
def apart(folder: Path, valkey: str, s3: str) -> Iterator[Driven]:
    """An API process that a test may do without."""
    with connect(valkey) as records:
        key = run(records, create_key("lab", "Ada"))
        with (
            servers.api(folder, servers.settings_for(valkey, s3)) as url,
            httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=30) as client,
        ):
            yield Driven(client, records, key)


@pytest.fixture
def inside(
    valkey: str, records: redis.Redis, objects: ObjectStore, s3: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Driven, Any]]:
    """An API that this process runs, and its services."""
    for name, value in servers.settings_for(valkey, s3).items():
        monkeypatch.setenv(name, value)
    port, key = free_port(), run(records, create_key("lab", "Ada"))
    app = create_app(Settings())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"API-KEY": key}, timeout=30) as client:
        yield Driven(client, records, key), app.state.services
    app.state.services.completions.close()
    server.should_exit = True
    thread.join()


def test_watchers_that_hang_up_leave_nothing_behind(inside: tuple[Driven, Any]) -> None:
    driven, services = inside
    jobs = [driven.accept() for _ in range(5)]
    ask = "GET /api/results/{}/events HTTP/1.1\r\nhost: x\r\napi-key: {}\r\n\r\n"
    sockets = []
    for n in range(50):
        watcher = socket.create_connection(("127.0.0.1", driven.client.base_url.port))
        watcher.sendall(ask.format(jobs[n % 5], driven.key).encode())
        sockets.append(watcher)
    wait_until(lambda: watchers(services) == 50)
    for watcher in sockets:
        watcher.close()
    wait_until(lambda: watchers(services) == 0)
    assert not services.completions._waiting


def watchers(services: Any) -> int:
    return sum(len(events) for events in list(services.completions._waiting.values()))


def test_a_silent_stream_gives_signs_of_life(inside: tuple[Driven, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    driven, _ = inside
    monkeypatch.setattr(api.events, "HEARTBEAT", 0.1)
    job = driven.accept()
    with driven.client.stream("GET", f"/api/results/{job}/events") as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(":") for line in (next(lines) for _ in range(8)))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"


def test_a_long_stream_ends_and_who_comes_back_misses_nothing_and_needs_a_key_that_is_valid_still(
    inside: tuple[Driven, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    driven, _ = inside
    monkeypatch.setattr(api.events, "LONGEST", 0.3)
    job = driven.accept()
    with watching(driven.client, job) as events:
        (queued,) = events
    driven.begin(job)
    with watching(driven.client, job, queued.id) as events:
        assert [event.event for event in events] == ["running"]
    run(driven.records, revoke_key(run(driven.records, check_key(driven.key)).id))
    assert driven.client.get(f"/api/results/{job}/events").status_code == 401
