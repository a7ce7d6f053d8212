"""``python -m tests.chaos``: N jobs under attack, here and in plain Celery, as a table. Run by ``make chaos``."""

import argparse
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.ours import Ours
from tests.chaos.peer import Peer
from tests.chaos.side import Row, Side


def attack(make: Callable[[Path, ExitStack], Side], seed: int, jobs: int) -> Row:
    with ExitStack() as living:
        folder = Path(living.enter_context(tempfile.TemporaryDirectory()))
        side = make(folder, living)
        print(f"{side.name}: {jobs} jobs, seed {seed}", flush=True)
        try:
            return side.run(seed, jobs=jobs)
        finally:
            side.crew.end()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="how many are submitted")
    parser.add_argument("--seed", type=int, default=None, help="of the nemesis; drawn when not given")
    parser.add_argument("--side", choices=("ours", "peer", "both"), default="both")
    asked = parser.parse_args()
    seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    sides: list[Callable[[Path, ExitStack], Side]] = {"ours": [Ours], "peer": [Peer], "both": [Ours, Peer]}[asked.side]
    rows = [attack(side, seed, asked.jobs) for side in sides]
    show(seed, rows)


def show(seed: int, rows: list[Row]) -> None:
    print(f"\nseed {seed}")
    print(f"{'':14}{'accepted':>10}{'lost':>7}{'twice':>7}{'stuck':>7}{'minutes':>9}")
    for row in rows:
        numbers = f"{row.accepted:10}{row.outcome.lost:7}{row.outcome.twice:7}{row.outcome.stuck:7}"
        print(f"{row.name:14}{numbers}{row.seconds / 60:9.1f}")
    for row in rows:
        print(f"{row.name}: " + ", ".join(f"{count} x {what}" for what, count in sorted(row.harms.items())))
        for what, counts in (("ended by itself", row.died), ("also", row.outcome.also)):
            if counts:
                print(f"  {what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
