"""Short ways to run a model in a test."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from shared.images import Source
from shared.jobs import Recipe
from shared.settings import ModelSettings
from shared.sizes import Size
from worker.redux.denoise import Trajectory
from worker.redux.model import ReduxModel
from worker.redux.weights import Weights, load_weights


def load(folder: Path, *, precision: str = "float32", device: str = "cpu") -> Weights:
    return load_weights(str(folder / "base"), str(folder / "redux"), precision=precision, device=device)


def make_model(weights: Weights, cache: Path, **settings: Any) -> ReduxModel:
    """Return a model that keeps its tables in ``cache``."""
    return ReduxModel(weights, ModelSettings(cache=str(cache), device="cpu", **settings))


def source(picture: Image.Image) -> Source:
    return Source(picture, sha256(picture.tobytes()).hexdigest())


def recipe(
    seeds: Sequence[int], *, size: tuple[int, int] = (320, 256), steps: int = 4, guidance_scale: float = 3.0
) -> Recipe:
    """Return one; ``size`` is (width, height) in pixels."""
    return Recipe(Size(*size), steps, guidance_scale, tuple(seeds))


def start(model: ReduxModel, picture: Image.Image, wish: Recipe) -> list[Trajectory]:
    return model.begin(model.prepare(source(picture), wish))


def finish(model: ReduxModel, picture: Image.Image, wish: Recipe) -> list[Trajectory]:
    """Return the finished trajectories of a job, which all share each call."""
    rows = start(model, picture, wish)
    for _ in range(wish.num_inference_steps):
        model.advance(rows)
    return rows


def difference(one: Tensor, other: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((one - other).norm() / one.norm())
