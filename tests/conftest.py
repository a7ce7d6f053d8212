"""Servers and values that several tiers use."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis
import trustme
from pydantic import SecretStr

from shared.connections import connect, run
from shared.keys import create_key
from shared.object_store import ObjectStore
from shared.settings import StorageSettings
from tests import servers
from tests.desk import SOURCE, Desk
from tests.driven import Driven
from tests.samples import encoded, fund, picture
from tests.stack import Stack, running_stack, upload
from tests.tls_servers import Names, Pictures
from tests.yard import Yard

#: Files that take long, longest first, and fixtures that make a file take long.
LONG = ("test_simulation", "test_stack", "stack", "bundle", "shared_town")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, so that at the end no process works alone; give every test an id of its own."""
    items.sort(key=_rank)
    for item in items:
        if "[" in item.name and item.id.params is None:  # schemathesis: all operations under one id
            item._id = item.id.with_params(item.name.partition("[")[2].removesuffix("]"))
    assert len({item.nodeid for item in items}) == len(items)  # of those with one id, xdist runs one


def _rank(item: pytest.Item) -> int:
    return next(
        (rank for rank, name in enumerate(LONG) if name in {item.path.stem, *getattr(item, "fixturenames", ())}),
        len(LONG),
    )


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    """A fresh Valkey server's URL."""
    with servers.valkey(tmp_path / "valkey") as url:
        yield url


@pytest.fixture
def records(valkey: str) -> Iterator[redis.Redis]:
    """A client of a fresh Valkey server, where the team of sample records can pay."""
    with connect(valkey) as funding:
        fund(funding)
    with connect(valkey) as client:
        yield client


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server's endpoint, shared by all tests."""
    with servers.s3(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def storage(s3: str) -> StorageSettings:
    return StorageSettings(
        endpoint=s3, access_key=SecretStr(servers.ACCESS_KEY), secret_key=SecretStr(servers.SECRET_KEY), bucket="tests"
    )


@pytest.fixture(scope="session")
def objects(storage: StorageSettings) -> ObjectStore:
    return ObjectStore(storage)


@pytest.fixture(scope="module")
def lone_api(tmp_path_factory: pytest.TempPathFactory, objects: ObjectStore, s3: str) -> Iterator[tuple[str, str]]:
    """URLs of an API that nothing stands behind, and of its records server."""
    folder = tmp_path_factory.mktemp("lone")
    with (
        servers.valkey(folder / "valkey") as valkey_url,
        servers.api(folder, servers.settings_for(valkey_url, s3)) as url,
    ):
        yield url, valkey_url


@pytest.fixture
def driven(lone_api: tuple[str, str]) -> Iterator[Driven]:
    """A team of its own at an API whose jobs the test takes from step to step."""
    url, valkey_url = lone_api
    with connect(valkey_url) as records:
        key = run(records, create_key(str(uuid4()), "Ada"))
        with httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=30) as client:
            yield Driven(client, records, key)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The resolver that this process asks."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Names) -> Iterator[Pictures]:
    """Starts TLS servers that this process trusts and finds by a public name."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with ExitStack() as stack:
        yield Pictures(authority, names, stack)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whole local stack, with everything real, for all tests that leave it standing."""
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def source(client: httpx.Client) -> dict[str, Any]:
    """An uploaded picture."""
    return upload(client, encoded(picture(640, 480), "PNG"))


@pytest.fixture
def desk(records: redis.Redis, objects: ObjectStore) -> Iterator[Desk]:
    """A worker without Celery, with a source to vary."""
    objects.put(SOURCE, encoded(picture(), "PNG"), "image/png")
    desk = Desk(records, objects)
    yield desk
    desk.keeper.stop()
    desk.engine.stop()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """A dispatcher on servers of its own, without workers."""
    with ExitStack() as living:
        yield Yard(tmp_path, living)
