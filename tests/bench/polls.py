"""A poll of a waiting job with 10,000 finished jobs in the store, beside the same poll with none.

Two services side by side, polled in turns. Run by ``make bench``.
"""

import statistics
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import redis

from shared.connections import run
from shared.job_store import JobStore
from shared.jobs import JobRecord
from shared.keys import create_key
from shared.programs import Program, together
from shared.teams import list_teams
from shared.transitions import finish
from tests import servers
from tests.bench.accept import OPEN, body
from tests.bench.load import Load, drive
from tests.ground import Ground
from tests.samples import MODEL, encoded, picture, record, start, variations_of

FINISHED = 10_000
BATCH = 100
ROUNDS, SECONDS = 10, 1.0
STORE = JobStore(timedelta(hours=1))


def finished(job: JobRecord) -> Program[None]:
    """Accept a job, claim it and finish it."""
    yield from STORE.accept(job)
    running = yield from STORE.update(job.id, start)
    end = finish(running, attempt=1, now=job.created_at, variations=variations_of(running), timings={}, model=MODEL)
    yield from STORE.update(job.id, lambda _: end)


def fill(records: redis.Redis) -> None:
    (team,) = run(records, list_teams())
    (user,) = (name.partition(":")[2] for name in records.scan_iter("user:*"))
    own = {"team_id": team.id, "user_id": user, "price": 0}
    for _ in range(FINISHED // BATCH):
        jobs = [record(created_at=datetime.now(UTC)).model_copy(update=own) for _ in range(BATCH)]
        run(records, together([finished(job) for job in jobs]))


def service(folder: Path, living: ExitStack, *, full: bool) -> Load:
    """Run an API without dispatcher and worker, and return what polls its one waiting job."""
    ground = Ground(folder, living)
    key = run(ground.records, create_key("bench", "somebody"))
    if full:
        fill(ground.records)
    url = living.enter_context(servers.api(folder, ground.environment | OPEN))
    with httpx.Client(base_url=url, headers={"API-KEY": key}) as client:
        asset = client.post("/api/assets", files={"asset": encoded(picture(), "PNG")}).json()["asset"]["key"]
        submitted = client.post("/api/features", content=body(asset, "async"))
        uuid = submitted.json()["aiRecord"]["uuid"]
    return Load([url], f"GET /api/results/{uuid} HTTP/1.1\r\nAPI-KEY: {key}\r\n", b"", 1, SECONDS)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as living:
        empty, full = (service(Path(name) / str(full), living, full=full) for full in (False, True))
        for _ in range(ROUNDS):
            drive(empty)
            drive(full)
    assert not empty.refused + full.refused
    none, many = (1e3 * statistics.median(load.latencies) for load in (empty, full))
    print(f"{none:8.2f} ms  a poll with no finished job, median of {len(empty.latencies)}")
    print(f"{many:8.2f} ms  a poll with {FINISHED} finished jobs, median of {len(full.latencies)}")
    print(f"{many / none:8.2f} times as long")


if __name__ == "__main__":
    main()
