"""Short ways to run a model in a test."""

from collections.abc import Sequence

from torch import Tensor

from worker.redux.model import Denoising, ReduxModel


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
    denoising = model.begin(
        condition,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        seeds=seeds,
    )
    while not denoising.finished:
        model.advance(denoising)
    return denoising


def difference(one: Tensor, other: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((one - other).norm() / one.norm())
