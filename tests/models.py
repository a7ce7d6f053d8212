"""Models without weights: they keep the engine's promises at a pace of the test's choosing."""

import time
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from shared.images import Picture
from shared.jobs import Recipe


@dataclass
class Steps:
    """A denoising that only counts."""

    recipe: Recipe
    step: int = 0

    @property
    def steps(self) -> int:
        return self.recipe.num_inference_steps

    @property
    def finished(self) -> bool:
        return self.step == self.steps


@dataclass
class PacedModel:
    """Takes ``pace`` seconds a step; fails for seeds that are named, and hangs for others."""

    pace: float = 0.0
    fails_for: frozenset[int] = frozenset()
    hangs_for: frozenset[int] = frozenset()
    begun: list[int] = field(default_factory=list)

    def condition(self, source: Picture) -> Any:
        return source.size

    def begin(self, condition: Any, recipe: Recipe) -> Steps:
        self.begun.append(recipe.seeds[0])
        return Steps(recipe)

    def advance(self, denoising: Steps) -> None:
        if denoising.recipe.seeds[0] in self.fails_for:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(1000 if denoising.recipe.seeds[0] in self.hangs_for else self.pace)
        denoising.step += 1

    def decode(self, denoising: Steps) -> list[Picture]:
        return [Image.new("RGB", denoising.recipe.size, (seed % 256, 0, 0)) for seed in denoising.recipe.seeds]


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
