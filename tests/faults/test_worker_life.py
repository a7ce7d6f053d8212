"""A worker whose servers go away, whose model hangs, that must go."""

import signal
import time

import pytest

from shared.jobs import JobStatus
from tests import servers
from tests.queues import monitored
from tests.servers import wait_until
from tests.yard import Yard

LONG = pytest.mark.slow


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=[LONG, pytest.mark.timeout(200)])])
def test_an_outage_of_the_object_storage_fails_no_attempt(yard: Yard, seconds: float) -> None:
    yard.worker("one", pace=0.1)
    storing = yard.accept(num_inference_steps=5)
    yard.denoising("one")
    yard.stop(servers.s3)
    loading = yard.accept(num_inference_steps=5, seed=8)
    time.sleep(seconds)
    assert yard.stored(storing).status is yard.stored(loading).status is JobStatus.RUNNING
    assert yard.log("one").count("waiting for the object storage") >= 2
    yard.serve(servers.s3)
    for job_id in (storing, loading):
        done = yard.wait_for(job_id, JobStatus.SUCCEEDED)
        assert (done.attempt, done.failed_attempts) == (1, 0)
        assert all(yard.objects.get(variation.key) for variation in done.variations)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[LONG, pytest.mark.timeout(200)])])
def test_a_worker_denoises_on_while_the_records_server_is_away_and_finishes_when_it_is_back(
    yard: Yard, seconds: float
) -> None:
    yard.worker("one", pace=0.1)
    running = yard.accept(num_inference_steps=15)
    yard.denoising("one")
    yard.stop(servers.valkey)
    time.sleep(seconds)
    assert "end 7" in yard.log("one")  # while nobody could be told
    yard.serve(servers.valkey)
    done = yard.wait_for(running, JobStatus.SUCCEEDED)
    assert (done.attempt, done.failed_attempts) == (1, 0)
    again = yard.accept(num_inference_steps=50, seed=8)  # keeper, consumer and follower live on
    wait_until(lambda: "begin 8" in yard.log("one"), 5)
    yard.cancel(again)
    wait_until(lambda: "lost the job" in yard.log("one"), 1)


@LONG
def test_a_model_that_hangs_ends_its_worker_and_the_job_is_taken_back(yard: Yard) -> None:
    worker = yard.worker("one", pace=0.1, stall_seconds=2)
    hanging = yard.accept(seed=13)
    yard.denoising("one")
    assert worker.wait(6) == 1
    assert yard.log("one").count("the engine hangs, and the worker ends") == 1
    back = yard.wait_for(hanging, JobStatus.QUEUED)
    assert back.failed_attempts == 1


@LONG
def test_a_worker_that_must_go_finishes_what_fits_into_the_grace_period(yard: Yard) -> None:
    worker = yard.worker("one", pace=0.1, grace_seconds=10)
    fitting = yard.accept(num_inference_steps=15)
    yard.denoising("one")
    worker.terminate()
    unseen = yard.accept(seed=8)
    assert worker.wait(8) == 0
    assert yard.stored(fitting).status is JobStatus.SUCCEEDED
    assert (yard.stored(unseen).status, yard.stored(unseen).attempt) == (JobStatus.QUEUED, 0)


def test_monitors_hear_the_end_of_a_job_that_a_worker_finishes_before_it_goes(yard: Yard) -> None:
    worker = yard.worker("one", pace=0.1, grace_seconds=10)
    job_id = yard.accept(num_inference_steps=15)
    yard.denoising("one")
    with monitored(yard.environment["REDUXQ_BROKER__URL"]) as heard:
        worker.terminate()
        wait_until(lambda: ("task-succeeded", job_id) in [(event["type"], event.get("uuid")) for event in heard], 8)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGTERM, marks=LONG),
        pytest.param(signal.SIGQUIT, marks=LONG),
        signal.SIGHUP,
    ],
)
def test_a_worker_that_must_go_hands_back_what_does_not_fit_into_the_grace_period(yard: Yard, sent: int) -> None:
    worker = yard.worker("one", pace=0.1, grace_seconds=0.5)
    long = yard.accept(num_inference_steps=50)
    yard.denoising("one")
    worker.send_signal(sent)
    assert worker.wait(4) == 0
    assert yard.log("one").count("begin") == 1
    back = yard.stored(long)
    assert (back.status, back.failed_attempts) == (JobStatus.QUEUED, 0)


@LONG
@pytest.mark.parametrize("phase", ["source", "store"])
def test_a_worker_that_must_go_hands_back_what_waits_for_the_object_storage(yard: Yard, phase: str) -> None:
    worker = yard.worker("one", pace=0.1, grace_seconds=0.5)
    if phase == "source":
        yard.stop(servers.s3)
    waiting = yard.accept(num_inference_steps=5)
    if phase == "store":
        yard.denoising("one")
        yard.stop(servers.s3)
    wait_until(lambda: "waiting for the object storage" in yard.log("one"))
    worker.terminate()
    assert worker.wait(8) == 0
    back = yard.stored(waiting)
    assert (back.status, back.failed_attempts) == (JobStatus.QUEUED, 0)


@LONG
def test_a_worker_that_must_go_while_the_records_server_is_away_goes(yard: Yard) -> None:
    worker = yard.worker("one", pace=0.1, grace_seconds=2)
    left = yard.accept(num_inference_steps=10)
    yard.denoising("one")
    yard.stop(servers.valkey)
    wait_until(lambda: "cannot finish yet" in yard.log("one"))
    worker.terminate()
    assert worker.wait(12) == 0
    assert "left the job to its lease" in yard.log("one")
    yard.serve(servers.valkey)
    back = yard.wait_for(left, JobStatus.QUEUED)
    assert back.failed_attempts == 1
