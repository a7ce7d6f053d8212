"""Whether the API says what it stands on, and which part is missing."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import servers
from tests.ground import Ground
from tests.servers import wait_until

ALL = {"records": True, "storage": True, "broker": True}
NONE: Mapping[str, str] = {}


class Front:
    """An API on servers that a test may stop, the broker apart from the records."""

    def __init__(self, folder: Path, living: ExitStack, settings: Mapping[str, str] = NONE) -> None:
        self.ground = Ground(folder, living)
        self.broker = living.enter_context(ExitStack())
        url = self.broker.enter_context(servers.valkey(folder / "broker"))
        environment = {**self.ground.environment, "REDUXQ_BROKER__URL": f"{url}/1", **settings}
        self.url = living.enter_context(servers.api(folder, environment))

    def ask(self) -> tuple[int, dict[str, Any]]:
        began = time.monotonic()
        answer = httpx.get(f"{self.url}/readyz", timeout=5)
        assert time.monotonic() - began < 2
        assert httpx.get(f"{self.url}/healthz").json() == {"status": "ok"}
        return answer.status_code, answer.json()

    def misses(self, part: str) -> bool:
        """Wait until a part, and nothing else, is missing."""
        wanted = (503, {"status": "unavailable", "dispatcher": False, "workers": 0} | ALL | {part: False})
        wait_until(lambda: self.ask() == wanted, 5)
        return True

    def is_whole(self) -> bool:
        wait_until(lambda: self.ask() == (200, {"status": "ok", "dispatcher": False, "workers": 0} | ALL), 5)
        return True


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with ExitStack() as living:
        yield Front(tmp_path, living)


@contextmanager
def without(front: Front, server: Any) -> Iterator[None]:
    front.ground.stop(server)
    yield
    front.ground.serve(server)


def test_an_api_is_ready_while_all_that_it_stands_on_can_serve_and_names_what_cannot(front: Front) -> None:
    assert front.is_whole()
    assert not list((front.ground.folder / "s3" / "objects").rglob("ready"))
    with without(front, servers.s3):
        assert front.misses("storage")
    assert front.is_whole()
    with without(front, servers.valkey):
        assert front.misses("records")
    assert front.is_whole()
    front.ground.records.config_set("appendfsync", "everysec")
    assert front.misses("records")
    front.ground.records.config_set("appendfsync", "always")
    assert front.is_whole()
    front.broker.close()
    assert front.misses("broker")


def test_a_storage_that_refuses_us_is_none(tmp_path: Path) -> None:
    with ExitStack() as living:
        assert Front(tmp_path, living, {"REDUXQ_STORAGE__SECRET_KEY": "wrong-secret"}).misses("storage")


def test_a_storage_that_hangs_delays_no_answer(tmp_path: Path) -> None:
    with ExitStack() as living, socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        front = Front(tmp_path, living, {"REDUXQ_STORAGE__ENDPOINT": place})
        assert front.misses("storage")
        assert front.misses("storage")
        silent.close()  # or the API would end as late as its last call


def test_the_public_port_tells_no_metrics(front: Front) -> None:
    assert httpx.get(f"{front.url}/metrics").status_code == 404
