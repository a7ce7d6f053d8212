"""Runs seeds: ``python -m tests.sim --seeds 100000``, or one with all that happened: ``--seed 17``."""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.sim.course import Outcome
from tests.sim.seeds import run_briefly, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print what happened")
    parser.add_argument("--seeds", type=int, default=2000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mutant", default="", help="a mistake to make")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first seed that fails")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _show(arguments.seed, arguments.mutant)
    started, failed, sums = time.monotonic(), 0, [0, 0, 0]
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    number = 0
    for outcome in _outcomes(seeds, arguments.mutant, arguments.processes):
        number += 1
        sums = [old + new for old, new in zip(sums, (outcome.jobs, outcome.faults, outcome.steps), strict=True)]
        failed += bool(outcome.failures)
        for what in outcome.failures:
            print(f"seed {outcome.seed}: {what}")
        if failed and arguments.until_failure:
            break
    jobs, faults, steps = sums
    seconds = time.monotonic() - started
    print(f"{failed} of {number} seeds failed; {jobs} jobs, {faults} faults, {steps} steps in {seconds:.1f} s")
    return int(failed > 0)


def _outcomes(seeds: range, mutant: str, processes: int) -> Iterator[Outcome]:
    """Give all seeds' outcomes in order, without their traces."""
    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    try:
        yield from pool.map(partial(run_briefly, mutant), seeds, chunksize=10)
    finally:
        pool.shutdown(cancel_futures=True)


def _show(seed: int, mutant: str) -> int:
    outcome = run_seed(mutant, seed)
    for at, who, what in outcome.trace:
        print(f"{at:10.4f}  {who:24}  {what}")
    print(outcome.fingerprint)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
