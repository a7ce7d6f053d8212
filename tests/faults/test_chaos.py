"""Everything breaks, again and again, while jobs come in: none is lost, none is published twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.errors import NotFound, RecordsUnavailable
from shared.ids import AssetKey, JobId
from shared.job_index import COMPLETIONS
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.programs import connect, run
from shared.transitions import cancel
from tests import servers
from tests.samples import PRICE, encoded, fund, picture, record
from tests.servers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STORE = JobStore(timedelta(seconds=2))
CHAOS = 60.0  #: seconds
CREDIT = 10**9
WORKER, DISPATCHER = "tests.paced_worker", "api.dispatcher"


class Town:
    """Two dispatchers and three workers whose servers are on fire."""

    def __init__(self, folder: Path, storage: str, objects: ObjectStore, living: ExitStack) -> None:
        self.folder = folder
        self.objects = objects
        self.port = servers.free_port()
        self._living = living
        self._valkey = living.enter_context(ExitStack())
        self.url = self._valkey.enter_context(servers.valkey(folder / "valkey", port=self.port))
        self.records = living.enter_context(connect(self.url))
        fund(self.records, CREDIT, CREDIT)
        self.broker: redis.Redis = living.enter_context(connect(f"{self.url}/1"))
        self._environment = servers.settings_for(self.url, storage) | {
            "REDUXQ_JOBS__LEASE_SECONDS": "2",
            "REDUXQ_JOBS__MAX_FAILED_ATTEMPTS": "99",
            "REDUXQ_DISPATCHER__REPUBLISH_SECONDS": "2",
        }
        self.dispatchers = [self.start(DISPATCHER) for _ in range(2)]
        self.workers = [self.start(WORKER) for _ in range(3)]

    def start(self, module: str) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{module}-{time.monotonic_ns()}.log"
        return self._living.enter_context(servers.process([sys.executable, "-m", module], log, self._environment))

    def kill_a_worker(self) -> None:
        place = random.randrange(3)
        self.workers[place].kill()
        self.workers[place] = self.start(WORKER)

    def freeze_a_worker(self) -> None:
        pid = random.choice(self.workers).pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(random.choice((1.9, 2.1, 3)))
        os.kill(pid, signal.SIGCONT)

    def kill_a_dispatcher(self) -> None:
        place = random.randrange(2)
        self.dispatchers[place].kill()
        self.dispatchers[place] = self.start(DISPATCHER)

    def kill_the_servers(self) -> None:
        info: Any = self.records.info("server")
        os.kill(int(info["process_id"]), signal.SIGKILL)
        self._valkey.close()
        self._valkey.enter_context(servers.valkey(self.folder / "valkey", port=self.port))

    def wipe_the_broker(self) -> None:
        self.broker.flushdb()


@pytest.fixture
def town(tmp_path: Path, s3: str, objects: ObjectStore) -> Iterator[Town]:
    objects.put(AssetKey("images/source.png"), encoded(picture(), "PNG"), "image/png")
    with ExitStack() as living:
        yield Town(tmp_path, s3, objects, living)


def test_no_accepted_job_is_lost_and_none_is_published_twice(town: Town) -> None:
    accepted: list[JobId] = []
    harms = [
        town.kill_a_worker,
        town.freeze_a_worker,
        town.kill_a_dispatcher,
        town.kill_the_servers,
        town.wipe_the_broker,
    ]
    until = time.monotonic() + CHAOS
    while time.monotonic() < until:
        for _ in range(6):
            job = record(datetime.now(UTC), num_outputs=2, num_inference_steps=10, megapixels="0.25")
            with suppress(RecordsUnavailable):
                run(town.records, STORE.accept(job))
                accepted.append(job.id)
        with suppress(RecordsUnavailable):
            run(town.records, STORE.update(random.choice(accepted), partial(cancel, now=datetime.now(UTC))))
        time.sleep(random.random())
        random.choice(harms)()
    assert len(accepted) > 100

    def ended() -> list[JobRecord]:
        found = (run(town.records, STORE.get(job_id)) for job_id in accepted)
        return [job for job in found if job and job.finished]

    wait_until(lambda: len(ended()) == len(accepted), 120)
    assert {job.status for job in ended()} == {JobStatus.SUCCEEDED, JobStatus.CANCELED}
    told: Any = town.records.xrange(COMPLETIONS)
    times = Counter(fields["id"] for _, fields in told)
    assert set(accepted) <= set(times)  # one whose acceptance was not told, for the server died, may be among them
    assert set(times.values()) == {1}
    all_told = (run(town.records, STORE.get(JobId(job_id))) for job_id in times)
    charged = [job.charged for job in all_told if job]
    assert set(charged) == {0, PRICE}
    assert town.records.hget("team:team", "credit") == str(CREDIT - sum(charged))
    assert town.records.hget("user:user", "credit_left") == str(CREDIT - sum(charged))
    for job in ended():
        assert all(is_there(town.objects, variation.key) for variation in job.variations)
    # Nothing died but what was killed.
    assert all(process.poll() is None for process in town.workers + town.dispatchers)


def is_there(objects: ObjectStore, key: AssetKey) -> bool:
    try:
        return bool(objects.get(key))
    except NotFound:
        return False
