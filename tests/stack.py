"""A running local stack as tests see it, and what they do with it."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis
from pydantic import SecretStr

from shared.connections import connect, run
from shared.keys import create_key
from shared.object_store import ObjectStore
from shared.settings import StorageSettings
from tests.servers import process, wait_until


@dataclass
class Stack:
    """A running stack as its user sees it."""

    folder: Path
    told: dict[str, Any]  #: stack.json

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.told["api_url"], headers={"API-KEY": key or self.told["api_key"]}, timeout=60)

    def records(self) -> redis.Redis:
        return connect(self.told["redis_url"])

    def new_key(self, team: str) -> str:
        with self.records() as records:
            return run(records, create_key(team, "somebody"))

    def flower(self, uuid: str) -> dict[str, Any] | None:
        """What Flower knows about a task."""
        auth = (self.told["flower_user"], self.told["flower_password"])
        answer = httpx.get(f"{self.told['flower_url']}/api/task/info/{uuid}", auth=auth)
        task: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return task

    def flower_state(self, uuid: str) -> str | None:
        task = self.flower(uuid)
        return task["state"] if task else None

    def objects(self) -> ObjectStore:
        """The bucket, past the API."""
        secrets = json.loads((self.folder / "secrets.json").read_text())
        keys = {name: SecretStr(secrets[f"s3_{name}"]) for name in ("access_key", "secret_key")}
        return ObjectStore(StorageSettings(endpoint=self.told["s3_url"], bucket="reduxq", **keys))

    def reservations(self) -> set[str]:
        """Every key that somebody owns or has reserved."""
        with self.records() as records:
            found: Any = records.keys("asset:*")
            return set(found)

    def object_files(self) -> set[str]:
        """Every object's path in the bucket."""
        bucket = self.folder / "s3" / "reduxq"
        return {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}


@contextmanager
def running_stack(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Run one whole local stack, with everything real."""
    folder.mkdir(exist_ok=True)
    data, log = folder / "data", folder / "up.log"
    with process([sys.executable, "-m", "reduxq", "up", "--port", "0", "--data", str(data)], log, environment) as up:
        place = data / "stack.json"
        wait_until(lambda: place.exists() or up.poll() is not None, 60)
        assert up.poll() is None, log.read_text()
        yield Stack(data, json.loads(place.read_text()))
    assert up.returncode == 0


def upload(client: httpx.Client, data: bytes, name: str = "cat.png") -> dict[str, Any]:
    answer = client.post("/api/assets", files={"asset": (name, data)})
    assert answer.status_code == 200, answer.text
    asset: dict[str, Any] = answer.json()["asset"]
    return asset


def feature(client: httpx.Client, image: str, *, wait: bool = False, **prompt: Any) -> dict[str, Any]:
    """Submit a job that a CPU makes in a second."""
    answer = client.post("/api/features", json=feature_body(image, **prompt) | {"async": not wait})
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()["aiRecord"]
    return record


def feature_body(image: str, **prompt: Any) -> dict[str, Any]:
    chosen = {"imageUrl": image, "megapixels": "0.25", "num_inference_steps": 2} | prompt
    return {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": chosen}


def result(client: httpx.Client, uuid: str) -> dict[str, Any]:
    record: dict[str, Any] = client.get(f"/api/results/{uuid}").json()["aiRecord"]
    return record


def wait_for(client: httpx.Client, uuid: str, seconds: float = 60) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (record := result(client, uuid))["status"] == "PROCESSING":
        assert time.monotonic() < until, record
        time.sleep(0.1)
    return record
