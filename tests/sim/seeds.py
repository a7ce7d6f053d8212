"""Runs single seeds, with a mistake in our code if one is named."""

from contextlib import nullcontext

from tests.sim.course import Outcome, run_course
from tests.sim.mutants import MUTANTS


def run_seed(mutant: str, seed: int) -> Outcome:
    """Let one seed's events happen."""
    chosen = {known.__name__: known for known in MUTANTS}
    with chosen[mutant]() if mutant else nullcontext():
        return run_course(seed)


def run_briefly(mutant: str, seed: int) -> Outcome:
    """As :func:`run_seed`, without the trace: the seed gives it again."""
    return run_seed(mutant, seed)._replace(trace=())
