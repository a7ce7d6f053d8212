"""Servers, API and dispatcher that are killed, frozen, wiped or cut off while jobs are under way."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from shared import dispatch_store
from shared.connections import connect, run
from shared.ids import JobId
from shared.jobs import JobRecord, JobStatus
from shared.queue import Broker
from tests import servers
from tests.faults.town import Town
from tests.servers import wait_until

SLOW = pytest.mark.slow
IN_FIRST_ATTEMPT = (JobStatus.SUCCEEDED, 1, 0)


def how(job: JobRecord) -> tuple[JobStatus, int, int]:
    return job.status, job.attempt, job.failed_attempts


def server_run(town: Town) -> str:
    return run(town.records, dispatch_store.server_run())


@contextmanager
def dead_records(town: Town) -> Iterator[None]:
    """Kill Valkey, which is records and broker, and start it again after the block."""
    before = server_run(town)
    town.stop(servers.valkey)
    yield
    town.serve(servers.valkey)
    assert server_run(town) != before


def test_a_job_outlives_the_death_of_valkey_right_after_its_acceptance(town: Town) -> None:
    job_id = town.submit()
    with dead_records(town):
        pass
    assert town.ended(job_id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("phase", [pytest.param("denoising", marks=SLOW), "before-finish"])
def test_a_running_job_is_finished_by_its_worker_when_valkey_is_back(town: Town, phase: str) -> None:
    town.halts.ask(phase)
    job_id = town.submit()
    worker = town.halted(phase)
    with dead_records(town):
        town.halts.release()
        if phase == "before-finish":
            wait_until(lambda: "cannot finish yet" in town.log(worker))
    assert how(town.ended(job_id)) == IN_FIRST_ATTEMPT
    assert town.crew.parts[worker].poll() is None


@SLOW
def test_a_worker_that_could_not_renew_its_lease_while_valkey_was_away_gets_the_time_for_it(town: Town) -> None:
    town.halts.ask("denoising")
    job_id = town.submit()
    worker = town.halted("denoising")
    town.crew.freeze(worker)  # so that it is not there first
    with dead_records(town):
        time.sleep(2.5)  # longer than a lease
    time.sleep(1.5)  # two looks of the dispatcher, and less than a lease
    assert not town.records.exists(f"lease:{job_id}")
    town.crew.thaw(worker)
    town.halts.release()
    assert how(town.ended(job_id)) == IN_FIRST_ATTEMPT


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=[SLOW, pytest.mark.timeout(180)])])
def test_jobs_outlive_a_frozen_valkey(town: Town, seconds: float) -> None:
    town.halts.ask("denoising")
    running = town.submit()
    town.halted("denoising")
    waiting = town.submit()
    pid = town.valkey_pid()
    os.kill(pid, signal.SIGSTOP)
    town.halts.release()
    started = time.monotonic()
    with town.client() as client:
        assert client.post("/api/features", json=town.body()).status_code == 503  # the fault is there
    time.sleep(max(0.0, started + seconds - time.monotonic()))
    os.kill(pid, signal.SIGCONT)
    for job_id in (running, waiting):
        assert town.ended(job_id).status is JobStatus.SUCCEEDED


def test_a_submission_is_answered_with_503_within_two_seconds_when_valkey_freezes_before_its_commit(town: Town) -> None:
    town.halts.ask("before-accept")
    headers, pid = {"Idempotency-Key": "frozen in the middle"}, town.valkey_pid()
    with town.client() as client, ThreadPoolExecutor() as pool:
        asking = pool.submit(client.post, "/api/features", json=town.body(), headers=headers)
        town.halted("before-accept")
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        town.halts.release()
        answer = asking.result()
        assert time.monotonic() - started < 2
        os.kill(pid, signal.SIGCONT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert how(town.ended(town.submit(headers["Idempotency-Key"]))) == IN_FIRST_ATTEMPT


def test_messages_that_a_flushed_broker_lost_are_sent_again(town: Town) -> None:
    for name in town.crew.named("worker"):
        town.crew.freeze(name)
    jobs = [town.submit() for _ in range(5)]  # as many as there are workers, who wait for one each, and more
    with connect(f"{town.url}/1") as client:
        broker = Broker(f"{town.url}/1")
        wait_until(broker.waiting)
        client.flushdb()
        assert not broker.waiting()
    for name in town.crew.named("worker"):
        town.crew.thaw(name)
    assert [how(town.ended(job_id)) for job_id in jobs] == [IN_FIRST_ATTEMPT] * 5


def test_a_reset_of_all_connections_disturbs_no_running_job(town: Town) -> None:
    town.halts.ask("denoising")
    running = town.submit()
    worker = town.halted("denoising")
    killed: Any = town.records.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert killed >= 10
    after = town.submit()
    town.halts.release()
    assert how(town.ended(running)) == how(town.ended(after)) == IN_FIRST_ATTEMPT
    assert town.crew.parts[worker].poll() is None


@pytest.mark.parametrize("phase", [pytest.param("before-accept", marks=SLOW), "after-accept"])
def test_an_api_killed_in_an_acceptance_leaves_one_job_for_a_client_that_asks_again(town: Town, phase: str) -> None:
    before = len(town.records.zrange("jobs:succeeded", 0, -1))
    town.halts.ask(phase)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(town.submit, f"killed {phase}")
        town.crew.kill(town.halted(phase))
        time.sleep(0.3)
        assert not asking.done()  # the client's answer died with the API
        town.crew.revive()
        job_id: JobId = asking.result(20)
    assert how(town.ended(job_id)) == IN_FIRST_ATTEMPT
    assert len(town.records.zrange("jobs:succeeded", 0, -1)) == before + 1


def kill_while_idle(town: Town) -> None:
    town.crew.kill("dispatcher")


def kill_before_it_sends(town: Town) -> None:
    """Kill it when it has noted messages that it has not sent."""
    town.halts.ask("before-publish")
    town.submit()
    town.crew.kill(town.halted("before-publish"))


@pytest.mark.parametrize("kill", [pytest.param(kill_while_idle, marks=SLOW), kill_before_it_sends])
def test_jobs_go_on_when_the_dispatcher_was_killed(town: Town, kill: Callable[[Town], None]) -> None:
    kill(town)
    job_id = town.submit()
    time.sleep(0.3)
    assert town.stored(job_id).status is JobStatus.QUEUED
    town.crew.revive()
    assert how(town.ended(job_id)) == IN_FIRST_ATTEMPT
