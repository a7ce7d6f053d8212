"""The server in memory keeps the promises of the real one: the programs' contracts are held to both."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from api.dispatcher import Dispatcher
from shared import presence
from shared.clock import Clock
from shared.connections import run
from shared.queue import Broker
from tests import memory, queues, servers
from tests.contract import rounds
from tests.samples import fund

#: Modules that ask for nothing but a records server.
BOTH = frozenset({"test_job_store", "test_job_index", "test_teams", "test_idempotency", "test_limits", "test_keys"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with either server, unless it says which one."""
    chosen = any("valkey" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "valkey" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in BOTH and not chosen:
        metafunc.parametrize("valkey", ["valkey", "memory"], indirect=True)


@pytest.fixture
def valkey(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh server's URL."""
    kind = getattr(request, "param", "valkey")
    with memory.server() if kind == "memory" else servers.valkey(tmp_path / "valkey") as url:
        yield url


@pytest.fixture
def records(valkey: str) -> Iterator[redis.Redis]:
    """A client of a fresh server, where the team of sample records can pay."""
    with memory.connect(valkey) as funding:
        fund(funding)
    with memory.connect(valkey) as client:
        yield client


@pytest.fixture
def sleep(valkey: str) -> Callable[[float], None]:
    """Lets seconds pass on the server."""
    return memory.SERVERS[valkey].clock.skip if valkey in memory.SERVERS else time.sleep


@pytest.fixture
def broker(valkey: str) -> Broker:
    return Broker(f"{valkey}/1")


@pytest.fixture
def dispatcher(broker: Broker, records: redis.Redis) -> Dispatcher:
    run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
    return Dispatcher(rounds.SETTINGS, records, broker, Clock())
