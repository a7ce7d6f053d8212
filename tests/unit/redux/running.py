"""Short ways to run a model in a test."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from shared.jobs import Recipe
from shared.sizes import Size
from worker.redux.denoise import Denoising
from worker.redux.model import ReduxModel
from worker.redux.weights import Weights, load_weights


def finish(
    model: ReduxModel,
    condition: Tensor,
    seeds: Sequence[int],
    *,
    size: tuple[int, int] = (320, 256),
    steps: int = 4,
    guidance_scale: float = 3.0,
) -> Denoising:
    """Return the finished denoising; ``size`` is (width, height) in pixels."""
    denoising = model.begin(condition, recipe(seeds, size=size, steps=steps, guidance_scale=guidance_scale))
    while not denoising.finished:
        model.advance(denoising)
    return denoising


def recipe(
    seeds: Sequence[int], *, size: tuple[int, int] = (320, 256), steps: int = 4, guidance_scale: float = 3.0
) -> Recipe:
    return Recipe(Size(*size), steps, guidance_scale, tuple(seeds))


def load(folder: Path, *, dtype: str = "float32", device: str = "cpu") -> Weights:
    return load_weights(str(folder / "base"), str(folder / "redux"), dtype=dtype, device=device)


def difference(one: Tensor, other: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((one - other).norm() / one.norm())
