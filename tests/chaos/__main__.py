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


def attack(make: Callable[[Path, ExitStack], Side], folder: Path, seed: int, jobs: int) -> Row:
    folder.mkdir(parents=True)
    with ExitStack() as living:
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
    parser.add_argument("--folder", type=Path, help="new one, where data and logs stay")
    asked = parser.parse_args()
    seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    sides: dict[str, Callable[[Path, ExitStack], Side]] = {"ours": Ours, "peer": Peer}
    chosen = sides if asked.side == "both" else [asked.side]
    with ExitStack() as living:
        folder = asked.folder or Path(living.enter_context(tempfile.TemporaryDirectory()))
        show(seed, [attack(sides[name], folder / name, seed, asked.jobs) for name in chosen])


def show(seed: int, rows: list[Row]) -> None:
    print(f"\nseed {seed}")
    print(f"{'':14}{'accepted':>10}{'lost':>7}{'twice':>7}{'stuck':>7}{'minutes':>9}")
    for row in rows:
        numbers = f"{row.accepted:10}{row.outcome.lost:7}{row.outcome.twice:7}{row.outcome.stuck:7}"
        print(f"{row.name:14}{numbers}{row.seconds / 60:9.1f}")
    for row in rows:
        print(f"{row.name}: " + ", ".join(f"{count} x {what}" for what, count in sorted(row.harms.items())))
        for line, count in row.died.most_common():
            print(f"  {count} x ended by itself: {line}")
        for what, count in row.outcome.also.items():
            print(f"  {count} x {what}")


if __name__ == "__main__":
    main()
