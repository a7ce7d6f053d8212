"""The simulation finds nothing wrong with our code, and finds what was made wrong on purpose."""

import os
import subprocess
import sys

import pytest

from tests.servers import ROOT
from tests.sim.mutants import MUTANTS

SEEDS_PER_MUTANT = 10_000  # the rarest is found by one seed in 1,250


def simulate(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.sim", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_in_2000_courses_of_events_no_job_is_lost_or_stuck_or_published_twice(first: int) -> None:
    told = simulate("--first", str(first), "--seeds", "500", "--processes", "1")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.startswith("0 of 500 seeds failed")


def test_a_seed_is_the_same_course_of_events_in_every_process() -> None:
    first, second = (simulate("--seed", "7", PYTHONHASHSEED=salt) for salt in ("1", "2"))
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 100
    assert simulate("--seed", "8").stdout != first.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", [mutant.__name__ for mutant in MUTANTS])
def test_a_mistake_is_found(mutant: str) -> None:
    told = simulate("--mutant", mutant, "--seeds", str(SEEDS_PER_MUTANT), "--until-failure")
    assert told.returncode == 1, told.stdout + told.stderr
    assert told.stdout.startswith("seed "), told.stdout + told.stderr
    assert " died: " not in told.stdout, "the mistake is made wrongly"
