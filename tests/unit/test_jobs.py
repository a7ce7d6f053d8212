from functools import partial

import pytest

from shared.errors import IllegalTransition, LeaseLost, ModelFailed
from shared.jobs import TERMINAL, JobRecord, JobStatus
from shared.transitions import claim, fail, fail_attempt, finish, hand_back
from tests.samples import MODEL, NOW, record, start, variations_of


def succeeded(job: JobRecord, attempt: int) -> JobRecord:
    return finish(job, attempt=attempt, variations=variations_of(job), model=MODEL, timings={}, now=NOW)


def test_a_claim_raises_the_attempt_and_plans_one_key_for_each_variation() -> None:
    running = claim(record(num_outputs=2), now=NOW, prefix="development/", digits=(1, 22, 333, 4444))
    assert running.status is JobStatus.RUNNING
    assert running.attempt == 1
    assert running.planned_keys == (
        "development/images/2026_01_02_03_04_05_678_000001.webp",
        "development/images/2026_01_02_03_04_05_678_000022.webp",
    )


def test_a_running_or_ended_job_cannot_be_claimed() -> None:
    running = start(record())
    for job in (running, succeeded(running, 1)):
        with pytest.raises(IllegalTransition, match=job.status):
            start(job)


def test_a_worker_that_lost_its_job_cannot_finish_it() -> None:
    again = start(hand_back(start(record()), attempt=1, now=NOW))
    assert again.attempt == 2
    for transition in (
        partial(succeeded, attempt=1),
        partial(fail, attempt=1, error=ModelFailed(), now=NOW),
        partial(fail_attempt, attempt=1, reason="", limit=3, now=NOW),
        partial(hand_back, attempt=1, now=NOW),
    ):
        with pytest.raises(LeaseLost, match="attempt 1 no longer owns"):
            transition(again)


def test_a_job_that_was_taken_back_is_no_longer_its_old_workers() -> None:
    queued = fail_attempt(start(record()), attempt=1, reason="silent", limit=3, now=NOW)
    with pytest.raises(LeaseLost):
        succeeded(queued, 1)


def test_repeating_a_finish_changes_nothing() -> None:
    running = start(record())
    done, failed = succeeded(running, 1), fail(running, attempt=1, error=ModelFailed("x"), now=NOW)
    assert succeeded(done, 1) is done
    assert fail(failed, attempt=1, error=ModelFailed("y"), now=NOW) is failed
    with pytest.raises(LeaseLost):
        succeeded(failed, 1)


def test_only_the_attempt_that_finished_may_say_so_again() -> None:
    second = start(hand_back(start(record()), attempt=1, now=NOW))
    done = succeeded(second, 2)
    with pytest.raises(LeaseLost):
        succeeded(done, 1)


def test_a_hand_back_counts_as_no_failure() -> None:
    job = record()
    for _ in range(5):
        job = start(job)
        job = hand_back(job, attempt=job.attempt, now=NOW)
    assert (job.attempt, job.failed_attempts, job.status) == (5, 0, JobStatus.QUEUED)


def test_a_job_whose_attempts_failed_too_often_fails_for_good_and_says_why() -> None:
    job = record()
    for _ in range(3):
        job = start(job)
        job = fail_attempt(job, attempt=job.attempt, reason="S3 is down", limit=3, now=NOW)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "TOO_MANY_ATTEMPTS"
    assert job.failure.message == "3 attempts failed; the last: S3 is down"


def test_seeds_follow_each_other_and_wrap() -> None:
    assert record(seed=0, num_outputs=2).parameters.seeds == (0, 1)
    assert record(seed=2**32 - 1, num_outputs=3).parameters.seeds == (2**32 - 1, 0, 1)


def test_a_record_survives_being_stored() -> None:
    done = succeeded(start(record(num_outputs=4)), 1)
    text = done.model_dump_json(by_alias=True)
    assert '"schema":2' in text
    assert JobRecord.model_validate_json(text) == done
    assert done.status in TERMINAL
