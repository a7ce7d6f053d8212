"""An answer follows the fsync: seen in the system calls of Valkey, which is stopped while it makes them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from ptrace.debugger import PtraceProcess

from shared.connections import connect, run
from shared.ids import JobId
from shared.jobs import JobStatus
from shared.keys import create_key
from shared.object_store import ObjectStore
from tests import servers
from tests.faults.town import Town
from tests.faults.tracing import synced_next, traced
from tests.samples import encoded, picture
from tests.stack import feature, upload

pytestmark = pytest.mark.slow

HELD = 0.5  #: seconds that an fsync is held up


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_an_acceptance_is_answered_when_it_is_synced(
    tmp_path: Path, s3: str, objects: ObjectStore, appendfsync: str
) -> None:
    with servers.valkey(tmp_path / "valkey", appendfsync=appendfsync) as url, connect(url) as records:
        info: Any = records.info("server")
        environment = servers.settings_for(url, s3) | {"REDUXQ_RECORDS__DURABILITY": "managed"}
        headers = {"API-KEY": run(records, create_key("lab", "Ada"))}
        with (
            servers.api(tmp_path, environment) as api_url,
            httpx.Client(base_url=api_url, headers=headers, timeout=30) as client,
            ThreadPoolExecutor() as pool,
        ):
            source = upload(client, encoded(picture(), "PNG"))["key"]
            with traced(int(info["process_id"])) as valkey:
                asking = pool.submit(feature, client, source)
                synced = list(held_syncs(valkey, asking.done))
            accepted = asking.result()["uuid"].encode()
    if appendfsync == "always":
        assert any(accepted in written for written in synced)
    else:  # the answer did not wait, and this test can tell
        assert not any(accepted in written for written in synced)


def held_syncs(valkey: PtraceProcess, answered: Callable[[], bool]) -> Iterator[bytes]:
    """Hold up each fsync until the client has an answer, and give what it syncs; in none may the client get one."""
    while not answered():
        if written := synced_next(valkey):
            time.sleep(HELD)
            assert not answered()
            yield written


def test_a_finish_whose_answer_died_with_valkey_is_not_lost_and_not_told_twice(town: Town) -> None:
    town.halts.ask("before-finish")
    job_id = town.submit()
    worker = town.halted("before-finish")
    with traced(town.valkey_pid()) as valkey:
        town.halts.release()
        while job_id.encode() not in (synced_next(valkey) or b"").rpartition(b"jobs:completions")[2]:
            pass  # the commit is written, and its answer is not
        os.kill(valkey.pid, signal.SIGKILL)
    assert not settled(town, worker, job_id)
    town.serve(servers.valkey)
    servers.wait_until(lambda: settled(town, worker, job_id))
    done = town.stored(job_id)
    assert (done.status, done.attempt, done.failed_attempts) == (JobStatus.SUCCEEDED, 1, 0)


def settled(town: Town, worker: str, job_id: JobId) -> bool:
    """Say whether the worker was told that it finished the job."""
    return any("settled" in line and job_id in line for line in town.log(worker).splitlines())
