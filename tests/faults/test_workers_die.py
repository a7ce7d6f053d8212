"""Workers that are killed or frozen in the middle of a job."""

import pytest

from shared.errors import NotFound, TooManyAttempts
from shared.ids import AssetKey
from shared.jobs import JobStatus
from tests.faults.halting_worker import POISON
from tests.faults.town import Town
from tests.servers import wait_until

SLOW = pytest.mark.slow
#: Phase with the attempts and the failed attempts that a job needs whose worker dies there.
PHASES = {
    "before-claim": (1, 0),
    "after-claim": (2, 1),
    "reading": (2, 1),
    "denoising": (2, 1),
    "encoding": (2, 1),
    "uploading": (2, 1),
    "before-finish": (2, 1),
    "after-finish": (1, 0),
}
QUICK = {"before-claim", "uploading", "after-finish"}


@pytest.mark.parametrize("phase", [pytest.param(phase, marks=() if phase in QUICK else SLOW) for phase in PHASES])
def test_a_job_whose_worker_is_killed_is_published_once_by_another(town: Town, phase: str) -> None:
    town.halts.ask(phase)
    job_id = town.submit()
    town.crew.kill(town.halted(phase))
    done = town.ended(job_id)
    assert done.status is JobStatus.SUCCEEDED
    assert (done.attempt, done.failed_attempts) == PHASES[phase]


@pytest.mark.parametrize(
    "phase", [*(pytest.param(phase, marks=SLOW) for phase in ("reading", "denoising", "uploading")), "before-finish"]
)
def test_a_worker_that_was_frozen_past_its_lease_publishes_nothing_when_it_thaws(town: Town, phase: str) -> None:
    town.halts.ask(phase)
    job_id = town.submit()
    frozen = town.halted(phase)
    town.crew.freeze(frozen)
    first = town.stored(job_id)
    done = town.ended(job_id)
    assert (done.status, done.attempt, done.failed_attempts) == (JobStatus.SUCCEEDED, 2, 1)
    town.halts.release()
    town.crew.thaw(frozen)
    wait_until(lambda: f"job={job_id} " in lines(town, frozen, "lost the job"))
    assert town.stored(job_id) == done
    wait_until(lambda: not any(there(town, key) for key in first.planned_keys))
    assert not set(first.planned_keys) & {variation.key for variation in done.variations}
    assert town.crew.parts[frozen].poll() is None


def test_a_worker_that_thaws_while_another_runs_its_job_leaves_it_alone(town: Town) -> None:
    town.halts.ask("before-finish")
    job_id = town.submit()
    frozen = town.halted("before-finish")
    town.crew.freeze(frozen)
    town.halts.ask("denoising")
    town.halted("denoising")
    running = town.stored(job_id)
    assert (running.status, running.attempt) == (JobStatus.RUNNING, 2)
    town.halts.release("before-finish")
    town.crew.thaw(frozen)
    wait_until(lambda: f"job={job_id} " in lines(town, frozen, "lost the job"))
    assert town.stored(job_id) == running
    town.halts.release()
    done = town.ended(job_id)
    assert (done.status, done.attempt, done.failed_attempts) == (JobStatus.SUCCEEDED, 2, 1)


@SLOW
def test_a_job_that_kills_its_workers_is_given_up_after_three_and_the_others_go_on(town: Town) -> None:
    poison, others = town.submit(seed=POISON), [town.submit() for _ in range(3)]
    killed: list[str] = []

    def given_up() -> bool:
        killed.extend(town.crew.revive())
        return town.stored(poison).finished

    wait_until(given_up, 30)
    ended = town.stored(poison)
    assert ended.failure is not None
    assert (ended.failure.code, ended.attempt) == (TooManyAttempts.code, 3)
    assert len(killed) == 3
    for job_id in others:
        assert town.ended(job_id).status is JobStatus.SUCCEEDED


def lines(town: Town, name: str, what: str) -> str:
    return "\n".join(f"{line} " for line in town.log(name).splitlines() if what in line)


def there(town: Town, key: AssetKey) -> bool:
    try:
        town.objects.get(key)
    except NotFound:
        return False
    return True
