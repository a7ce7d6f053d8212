"""Runs seeds: ``python -m tests.sim --seeds 100000``, or one with all that happened: ``--seed 17``."""

import argparse
import sys
import time
from collections.abc import Iterable
from multiprocessing import get_context

from tests.sim.course import Outcome, run_course
from tests.sim.tamed import silence


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print what happened")
    parser.add_argument("--seeds", type=int, default=2000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    silence()
    if arguments.seed is not None:
        outcome = run_course(arguments.seed)
        for at, who, what in outcome.trace:
            print(f"{at:10.4f}  {who:24} {what}")
        print(outcome.fingerprint)
        return _judge([outcome])
    started = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with get_context("spawn").Pool(arguments.processes, silence) as pool:
        failed = _judge(pool.imap(_briefly, seeds, chunksize=20))
    seconds = time.monotonic() - started
    print(f"{len(seeds)} seeds in {seconds:.1f} s")
    return failed


def _briefly(seed: int) -> Outcome:
    outcome = run_course(seed)
    return Outcome(**(vars(outcome) | {"trace": ()}))


def _judge(outcomes: Iterable[Outcome]) -> int:
    failed = steps = jobs = faults = 0
    for outcome in outcomes:
        steps, jobs, faults = steps + outcome.steps, jobs + outcome.jobs, faults + outcome.faults
        for what in outcome.failures:
            print(f"seed {outcome.seed}: {what}")
        failed += bool(outcome.failures)
    print(f"{failed} seeds failed; {jobs} jobs, {faults} faults, {steps} steps")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
