"""The life of a job in the worker, on a real Valkey and a real S3 server; only the weights are missing."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.connections import run
from shared.errors import ModelFailed
from shared.ids import AssetKey, JobId
from shared.images import Picture, read_source
from shared.jobs import Flagged, JobStatus
from shared.presence import WorkerLife, living_workers
from tests.desk import CHECKED, STORE, Desk
from tests.models import Steps, seed_of
from tests.samples import MODEL, PRICE
from tests.servers import wait_until
from worker.runner import Score


def test_a_queued_job_ends_with_its_variations_at_the_planned_keys(desk: Desk) -> None:
    done = desk.run(num_outputs=2, num_inference_steps=3, megapixels="0.25", output_format="png")
    assert done == desk.stored(done.id)
    assert done.status is JobStatus.SUCCEEDED
    assert tuple(variation.key for variation in done.variations) == done.planned_keys
    assert [variation.seed for variation in done.variations] == [7, 8]
    for variation in done.variations:
        data = desk.objects.get(variation.key)
        assert len(data) == variation.size_bytes
        assert read_source(data).picture.size == (576, 448)
    assert set(done.timings) == {
        "sourceSeconds",
        "modelSeconds",
        "gpuSeconds",
        "safetySeconds",
        "storeSeconds",
    }
    assert done.model == CHECKED


def test_a_job_that_is_not_queued_is_left_alone(desk: Desk) -> None:
    done = desk.run(num_inference_steps=1)
    assert desk.runner.run(done.id) is None
    assert desk.runner.run(JobId("unknown")) is None
    assert desk.stored(done.id) == done


def test_a_model_that_fails_unexpectedly_fails_an_attempt_and_the_third_ends_the_job(desk: Desk) -> None:
    desk.model.fails_for = frozenset({13})
    back = desk.run(seed=13)
    assert (back.status, back.failed_attempts, back.failure) == (JobStatus.QUEUED, 1, None)
    for _ in range(2):
        assert desk.run().status is JobStatus.SUCCEEDED
        failed = desk.runner.run(back.id)
    assert failed is not None
    assert failed.failure is not None
    assert failed.failure.code == "TOO_MANY_ATTEMPTS"
    assert failed.failure.message == "3 attempts failed; the last: Something went wrong."


def test_a_model_that_knows_that_it_failed_ends_the_job_and_its_client_reads_no_details(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(_: Steps) -> Callable[[], Picture]:
        raise ModelFailed("/srv/models/x: not finite")

    monkeypatch.setattr(desk.model, "decode", decode)
    failed = desk.run(num_inference_steps=1)
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.message) == ("MODEL_FAILED", ModelFailed().summary)


def test_a_worker_rests_after_failed_attempts_the_longer_the_more_failed_in_a_row(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lease.REST", 0.2)
    desk.run(num_inference_steps=1)
    assert not desk.keeper.resting()
    for failures in (1, 2, 3):
        desk.run(desk.runner_with(score=_raise), num_inference_steps=1)
        began = time.monotonic()
        assert desk.keeper.resting()
        wait_until(lambda: not desk.keeper.resting())
        assert time.monotonic() - began == pytest.approx(failures * 0.2, abs=0.15)
    desk.run(num_inference_steps=1)
    desk.run(desk.runner_with(score=_raise), num_inference_steps=1)
    time.sleep(0.3)
    assert not desk.keeper.resting()


def test_a_flagged_variation_is_withheld_and_the_others_are_delivered_and_paid(desk: Desk) -> None:
    desk.score.by_seed = {8: 0.912345, 9: 0.4999}
    before = desk.credit()
    done = desk.run(num_outputs=3, num_inference_steps=1, output_format="png")
    assert done.status is JobStatus.SUCCEEDED
    assert done.flagged == (Flagged(seed=8, score=0.9123),)
    first, withheld, last = done.planned_keys
    assert [(variation.seed, variation.key) for variation in done.variations] == [(7, first), (9, last)]
    assert [seed_of(read_source(desk.objects.get(key)).picture) for key in (first, last)] == [7, 9]
    assert not desk.is_there(withheld)
    assert done.charged == before - desk.credit() == -(-2 * PRICE // 3)


def test_a_job_whose_variations_are_all_flagged_fails_and_costs_nothing(desk: Desk) -> None:
    desk.score.by_seed = {7: 0.5, 8: 0.91}
    before = desk.credit()
    failed = desk.run(num_outputs=2, num_inference_steps=1)
    assert failed.status is JobStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "CONTENT_FLAGGED"
    assert failed.failure.message == "The safety checker flagged every variation. Scores: 0.5, 0.91"
    assert failed.model == CHECKED
    assert failed.flagged == (Flagged(seed=7, score=0.5), Flagged(seed=8, score=0.91))
    assert not failed.variations
    assert not any(desk.is_there(key) for key in failed.planned_keys)
    assert (failed.charged, desk.credit()) == (0, before)


def test_a_job_without_the_safety_checker_is_delivered_unseen_and_says_so(desk: Desk) -> None:
    desk.score.by_seed = {7: 1.0}
    done = desk.run(num_inference_steps=1, disable_safety_checker=True)
    assert len(done.variations) == 1
    assert (done.flagged, desk.score.asked) == ((), 0)
    assert done.model == MODEL
    assert "safetySeconds" not in done.timings


def _raise(pictures: list[Picture]) -> list[float]:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("score", [_raise, lambda pictures: []])
def test_a_safety_checker_that_fails_fails_the_attempt_and_nothing_goes_out_unchecked(desk: Desk, score: Score) -> None:
    failed = desk.run(desk.runner_with(score=score), num_inference_steps=1)
    assert (failed.status, failed.failed_attempts) == (JobStatus.QUEUED, 1)
    assert not any(desk.is_there(key) for key in failed.planned_keys)


@pytest.mark.parametrize("data", [None, b"not an image"])
def test_a_source_that_cannot_be_read_fails_the_job(desk: Desk, data: bytes | None) -> None:
    source = AssetKey("images/gone.png")
    desk.objects.delete(source)
    if data:
        desk.objects.put(source, data, "image/png")
    failed = desk.run(source=source)
    assert failed.failure is not None
    assert failed.failure.code == "SOURCE_UNUSABLE"
    assert failed.failure.message in {
        "the source is no longer in the store",
        "the source: the image is of no known type",
    }


def test_progress_is_told_while_the_job_runs_and_the_lease_outlives_its_length(desk: Desk) -> None:
    desk.model.pace = 0.1
    job_id = desk.accept(num_inference_steps=20)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(desk.runner.run, job_id)
        steps = set()
        while not running.done():
            report = run(desk.records, STORE.report(job_id))
            steps.add(report.progress.step if report and report.progress else 0)
            _, unleased = run(desk.records, STORE.running())
            assert not unleased or desk.stored(job_id).finished  # it may end between the two looks
            time.sleep(0.05)
    assert len(steps) > 3
    assert desk.stored(job_id).attempt == 1


def test_a_retired_worker_is_off_the_list_and_stays_off(desk: Desk) -> None:
    wait_until(lambda: run(desk.records, living_workers()) == {"one": WorkerLife(2, 0.0)})
    desk.keeper.retire()
    time.sleep(0.6)
    assert run(desk.records, living_workers()) == {}


def test_a_worker_that_retires_tells_of_the_jobs_that_it_still_has_and_of_no_room(desk: Desk) -> None:
    desk.model.pace = 0.1
    with ThreadPoolExecutor() as pool:
        job = pool.submit(desk.run, num_inference_steps=20)
        wait_until(desk.keeper.held)
        desk.keeper.retire()
        wait_until(lambda: run(desk.records, living_workers())["one"].slots == 1)
        job.result(10)
    wait_until(lambda: run(desk.records, living_workers()) == {})


def test_a_worker_tells_how_fast_it_is(desk: Desk) -> None:
    desk.model.pace = 0.01
    done = desk.run(num_inference_steps=10)
    assert 0.1 <= done.timings["gpuSeconds"] <= done.timings["modelSeconds"]
    speed = done.parameters.work / done.timings["gpuSeconds"]
    wait_until(lambda: run(desk.records, living_workers())["one"].speed == pytest.approx(speed, rel=0.5))
