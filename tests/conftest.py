"""Servers and values that several tiers use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from shared.object_store import ObjectStore
from shared.programs import connect
from shared.settings import StorageSettings
from tests import servers


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    """A fresh Valkey server's URL."""
    with servers.valkey(tmp_path / "valkey") as url:
        yield url


@pytest.fixture
def records(valkey: str) -> Iterator[redis.Redis]:
    """A client of a fresh Valkey server."""
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
    store = ObjectStore(storage)
    store.create_bucket()
    return store
