"""This service under attack."""

import json
from contextlib import ExitStack
from pathlib import Path
from threading import local
from typing import Any

import httpx

from shared import batch_store
from shared.batch_store import ENDED, LIVING, Entry
from shared.batches import STATES
from shared.connections import run
from shared.ids import BatchId, JobId
from shared.job_index import COMPLETIONS
from shared.jobs import JobStatus
from tests.chaos.side import Outcome, Side
from tests.faults.town import Town

SETTINGS = {
    "REDUXQ_JOBS__LEASE_SECONDS": "2",
    "REDUXQ_JOBS__MAX_FAILED_ATTEMPTS": "20",  # more than any job meets, so that none may fail
    "REDUXQ_DISPATCHER__REPUBLISH_SECONDS": "2",
    "REDUXQ_TEAMS__OPEN_JOBS": "1000000",
}
CANCELED = 50  #: one job of so many is canceled as soon as it is accepted
BATCHES = 1000  #: one request of so many is a batch
ITEMS = 10  #: of a batch
PATIENCE = 5.0  #: seconds a client waits for an answer


class Ours(Side):
    """Three workers, two dispatchers, two APIs."""

    name = "reduxq"

    def __init__(self, folder: Path, living: ExitStack) -> None:
        super().__init__()
        self._living = living
        self.ground = self.town = Town(folder, living, SETTINGS, pace=0.002)
        self.crew = self.town.crew
        self.town._process("dispatcher-1", "api.dispatcher", {})
        self._urls = [self.town.api_url, self.town.add_api("api-1")]
        self._mine = local()
        self._seen = "-"
        self.items = 0  #: of batches, in the end

    def ask(self, number: int) -> str | None:
        body = self.town.body(seed=number, num_inference_steps=4, num_outputs=1 + number % 2)
        headers = {"Idempotency-Key": f"job {number}"}
        if number % BATCHES == BATCHES // 20:
            lines = [{"defaults": body["promptObject"]}, *({"seed": number + place} for place in range(ITEMS))]
            content = "\n".join(map(json.dumps, lines))
            sent = self._send("/api/batches", headers, content=content)
            return None if sent is None else str(sent["batch"]["uuid"])
        answer = self._send("/api/features", headers, json=body)
        job_id = None if answer is None else str(answer["aiRecord"]["uuid"])
        if job_id and number % CANCELED == 0:
            while self._send(f"/api/results/{job_id}/cancel", {}) is None:
                pass
        return job_id

    def _send(self, path: str, headers: dict[str, str], **body: Any) -> dict[str, Any] | None:
        """Ask the API that answered last; None if it does not answer or cannot serve, and the other's turn comes."""
        client = self._client()
        try:
            answer = client.post(path, headers=headers, **body)
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            client.base_url = httpx.URL(self._urls[str(client.base_url).rstrip("/") == self._urls[0]])
            return None
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def _items(self, batch_id: BatchId) -> list[Entry]:
        return run(self.town.records, batch_store.entries(batch_id, STATES, limit=ITEMS + 1, after=0))

    def _client(self) -> httpx.Client:
        if not hasattr(self._mine, "client"):
            self._mine.client = self._living.enter_context(self.town.client(timeout=PATIENCE))
        client: httpx.Client = self._mine.client
        return client

    def follow(self) -> None:
        entries: Any = self.town.records.xrange(COMPLETIONS, min=f"({self._seen}" if self._seen != "-" else "-")
        for entry, fields in entries:
            self._seen = entry
            self.told[fields["id"]] += 1

    def outcome(self) -> Outcome:
        batches = set(self.accepted) & set(map(str, self.town.records.smembers(LIVING)))
        batches.update(map(str, self.town.records.zrange(ENDED, 0, -1)))
        items = [entry for batch_id in batches for entry in self._items(BatchId(batch_id))]
        jobs = [entry.outcome.record_id for entry in items if entry.outcome.record_id]
        self.town.accepted = [*jobs, *(JobId(job_id) for job_id in self.accepted if job_id not in batches)]
        found = self.town.tally(self.told)
        also = {name: count for name, count in found.broken.items() if name not in {"lost", "stuck", "published_twice"}}
        if failed := found.ends["failed"]:
            also["failed"] = failed
        if missing := sum(entry.state is not JobStatus.SUCCEEDED for entry in items):
            also["items"] = missing
        if made := len(batches - set(self.accepted)):
            also["batches_made_twice"] = made
        self.items = len(items)
        return Outcome(found.lost, found.published_twice, found.stuck, also)
