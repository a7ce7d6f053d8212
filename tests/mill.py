"""A yard with an API, for many jobs at once: what a client of batches sees, and who does the work."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from shared.connections import run
from shared.keys import create_key
from tests import servers
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.stack import upload
from tests.yard import LEASE, Yard

SMALL = {"megapixels": "0.25", "num_inference_steps": 1, "format": "jpg", "disable_safety_checker": True}


class Mill(Yard):
    """A client of a whole service without weights."""

    def __init__(self, folder: Path, living: ExitStack, settings: Mapping[str, str] = LEASE) -> None:
        super().__init__(folder, living, settings)
        self.key = run(self.records, create_key("lab", "Ada"))
        url = living.enter_context(servers.api(folder, self.environment))
        self.client = living.enter_context(httpx.Client(base_url=url, headers={"API-KEY": self.key}, timeout=120))
        self.source = upload(self.client, encoded(picture(), "PNG"))["key"]

    def manifest(self, *items: Mapping[str, Any] | bytes, **header: Any) -> bytes:
        """Return a body whose items vary the source, if they say nothing else, as quickly as can be."""
        first = {"defaults": SMALL | {"imageUrl": self.source} | header.pop("defaults", {})} | header
        lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in (first, *items)]
        return b"\n".join(lines)

    def send(self, *items: Mapping[str, Any] | bytes, **header: Any) -> dict[str, Any]:
        return batch_of(self.client.post("/api/batches", content=self.manifest(*items, **header)))

    def read(self, uuid: str, wait: int = 0) -> dict[str, Any]:
        return batch_of(self.client.get(f"/api/batches/{uuid}?wait={wait}"))

    def ended(self, uuid: str, seconds: float = 60) -> dict[str, Any]:
        wait_until(lambda: self.read(uuid, 10)["status"] != "PROCESSING", seconds)
        return self.read(uuid)

    def items(self, uuid: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Give a batch's items, page by page."""
        cursor: str | None = "0"
        while cursor is not None:
            page = self.client.get(f"/api/batches/{uuid}/items", params=query | {"cursor": cursor}).raise_for_status()
            yield from page.json()["items"]
            cursor = page.json()["nextCursor"]

    def statuses(self, uuid: str) -> Counter[str]:
        return Counter(item["status"] for item in self.items(uuid))


def batch_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    batch: dict[str, Any] = answer.json()["batch"]
    return batch


def results(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a batch's result manifest."""
    lines = httpx.get(batch["resultsUrl"]).raise_for_status().content.splitlines()
    return [json.loads(line) for line in lines]
