"""Models without weights: they keep the engine's promises at a pace of the test's choosing; and who follows a job."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image

from shared.errors import LeaseLost, ReduxqError
from shared.images import Picture, Source
from shared.jobs import Recipe
from shared.sizes import Size
from worker.work import OutOfMemory


@dataclass(eq=False)
class Steps:
    """A trajectory that only counts."""

    seed: int
    size: Size
    steps: int
    step: int = 0


@dataclass
class PacedModel:
    """Takes ``pace`` seconds for a row's step; fails for seeds that are named, and hangs for others."""

    pace: float = 0.0
    fails_for: frozenset[int] = frozenset()
    hangs_for: frozenset[int] = frozenset()
    most_rows: int = 100  #: that its memory holds
    begun: list[int] = field(default_factory=list)  #: first seeds
    calls: list[list[int]] = field(default_factory=list)  #: the seeds of each call's rows

    def prepare(self, source: Source, recipe: Recipe) -> Any:
        assert source.digest
        return recipe

    def begin(self, prepared: Recipe) -> list[Steps]:
        self.begun.append(prepared.seeds[0])
        return [Steps(seed, prepared.size, prepared.num_inference_steps) for seed in prepared.seeds]

    def advance(self, rows: Sequence[Steps]) -> None:
        assert len({row.size for row in rows}) == 1
        if len(rows) > self.most_rows:
            raise OutOfMemory
        seeds = [row.seed for row in rows]
        if self.fails_for.intersection(seeds):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if seconds := 1000 if self.hangs_for.intersection(seeds) else self.pace * len(rows):
            time.sleep(seconds)  # that of 0 s takes 0.07 ms
        self.calls.append(seeds)
        for row in rows:
            row.step += 1

    def decode(self, row: Steps) -> Callable[[], Picture]:
        assert row.step == row.steps
        return partial(Image.new, "RGB", row.size, (row.seed % 256, 0, 0))

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, first: float, second: float) -> float | None:
        return second - first


class Follower:
    """Notes the progress and ends the job before a step, if told to."""

    low, accepted = False, math.inf

    def __init__(self, end_at: int = -1, error: ReduxqError | None = None) -> None:
        self.seen: list[tuple[int, int]] = []  #: steps made, as a mean of the variations, and all
        self.each: list[Sequence[int]] = []
        self.end_at = end_at
        self.error = error or LeaseLost()

    def check(self) -> None:
        if len(self.seen) == self.end_at:
            raise self.error

    def tell(self, made: Sequence[int], steps: int) -> None:
        self.seen.append((sum(made) // len(made), steps))
        self.each.append(made)


@dataclass
class ChosenScores:
    """A safety checker that knows a paced model's pictures by their seeds and finds all but the chosen harmless."""

    by_seed: dict[int, float] = field(default_factory=dict)
    asked: int = 0  #: how many pictures it was shown

    def __call__(self, pictures: list[Picture]) -> list[float]:
        self.asked += len(pictures)
        return [self.by_seed.get(seed_of(picture), 0.0) for picture in pictures]


def seed_of(picture: Picture) -> int:
    """Return the seed, modulo 256, that a paced model's picture was made from."""
    level: Any = picture.getpixel((0, 0))
    return int(level[0])
