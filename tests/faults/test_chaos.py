"""A minute of :mod:`tests.chaos`: everything breaks, again and again, while jobs come in."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.ours import ITEMS, Ours
from tests.chaos.side import Outcome

SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_accepted_job_is_lost_or_stuck_and_none_is_published_twice(tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print(f"python -m tests.chaos --side ours --seed {seed}")
    with ExitStack() as living:
        ours = Ours(tmp_path, living)
        row = ours.run(seed, seconds=SECONDS)
        ours.crew.end()
    assert row.outcome == Outcome(lost=0, twice=0, stuck=0, also={})
    # Nothing dies but what is killed, and what starts when there is no records server.
    assert all("the records server does not answer" in line for line in row.died)
    assert row.accepted > 100
    assert ours.items >= ITEMS
    assert row.harms.total() > 15
    assert len(row.harms) > 4
