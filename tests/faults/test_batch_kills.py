"""Batches while everything that handles them is killed: each item ends once, and is paid once."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.connections import run
from shared.job_index import EVERYWHERE, index
from shared.jobs import JobStatus
from shared.teams import STARTING_CREDIT, list_teams
from tests.faults.tally import stored_jobs
from tests.faults.town import QUICK, Town
from tests.mill import SMALL, batch_of, results
from tests.servers import wait_until
from tests.yard import STORE

PATIENT = {"REDUXQ_JOBS__MAX_FAILED_ATTEMPTS": "50"}  #: a job is killed as often as its worker
PARTS = ("dispatcher", "worker-0", "api")


@pytest.mark.timeout(600)
def test_each_item_of_a_batch_ends_once_whatever_is_killed(tmp_path: Path) -> None:
    account_for(100, 3, tmp_path, 300)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_of_ten_thousand_items_ends_once_whatever_is_killed(tmp_path: Path) -> None:
    account_for(10_000, 30, tmp_path, 3000)


def account_for(items: int, kills: int, folder: Path, seconds: float) -> None:
    """Send a batch, kill parts of the service until it has ended, and count."""
    with ExitStack() as living:
        town = Town(folder, living, QUICK | PATIENT, workers=1, pace=0)
        lines = [{"defaults": SMALL | {"imageUrl": town.source}}, *({"customId": str(n)} for n in range(items))]
        uuid = accepted_while_the_api_dies(town, b"\n".join(json.dumps(line).encode() for line in lines))
        for killed, part in zip(range(kills), cycle(PARTS), strict=False):
            wait_until(lambda more=(killed + 1) * items // (kills + 1): ended(town) >= more, seconds)  # type: ignore[misc]
            town.crew.kill(part)
            town.crew.revive()
        wait_until(lambda: ask(town, f"/api/batches/{uuid}?wait=5")["status"] == "SUCCESS", seconds)
        batch = ask(town, f"/api/batches/{uuid}")
        assert batch["counts"] == {"total": items, "succeeded": items} | dict.fromkeys(
            ("waiting", "processing", "failed", "canceled"), 0
        )
        found = results(batch)
        assert [line["customId"] for line in found] == [str(n) for n in range(items)]
        jobs = {job.id: job for job in stored_jobs(town.records, STORE)}
        assert {line["recordId"] for line in found} == jobs.keys()
        for line in found:
            assert line["keys"] == [variation.key for variation in jobs[line["recordId"]].variations]
        (lab,) = (team for team in run(town.records, list_teams()) if team.name == "lab")
        assert STARTING_CREDIT - lab.credit == sum(job.charged for job in jobs.values()) == batch["price"]["charged"]
        town.crew.end()


def accepted_while_the_api_dies(town: Town, body: bytes) -> str:
    """Send a batch twice under one key, the API being killed as it takes the first; return the one that stands."""
    with ThreadPoolExecutor(1) as pool, town.client(timeout=60) as client:
        send: Any = {"content": body, "headers": {"Idempotency-Key": "one"}}
        first = pool.submit(client.post, "/api/batches", **send)
        wait_until(lambda: next(town.records.scan_iter("batch:*:lines"), None) or first.done(), 60)
        town.crew.kill("api")
        town.crew.revive()
        with suppress(httpx.TransportError):
            first.result()
    answers: list[httpx.Response] = []

    def answered() -> bool:
        with suppress(httpx.TransportError), town.client(timeout=60) as again:
            answers.append(again.post("/api/batches", **send))
        return bool(answers) and answers[-1].is_success

    wait_until(answered, 60)
    with town.client() as client:
        assert len(client.get("/api/batches").json()["batches"]) == 1
    return str(batch_of(answers[-1])["uuid"])


def ask(town: Town, path: str) -> dict[str, Any]:
    """Read a batch; nothing, but for a status, while nobody answers."""
    with suppress(httpx.TransportError), town.client(timeout=30) as client:
        answer = client.get(path)
        if answer.is_success:
            return batch_of(answer)
    return {"status": "unknown"}


def ended(town: Town) -> int:
    return int(str(town.records.zcard(index(EVERYWHERE, JobStatus.SUCCEEDED))))
