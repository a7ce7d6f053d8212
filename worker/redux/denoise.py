"""The denoising of trajectories, one step at a time, whatever jobs they belong to.

Source: diffusers, pipeline_flux.py; transformer_flux.py; scheduling_flow_match_euler_discrete.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.sizes import Size
from worker.redux.schedule import Schedule
from worker.redux.weights import Weights


@dataclass(eq=False)
class Trajectory:
    """One variation on its way; all that it needs is its own or never changes."""

    size: Size
    latents: Tensor  #: (tokens, channels) packed, float32 or wider
    context: Tensor  #: (1 + patches, width)
    rotary: Tensor  #: (2, 1 + patches + tokens, width of a head) float32: cosines, sines
    table: Tensor  #: (steps, numbers) of the modulation
    schedule: Schedule
    step: int = 0  #: steps done

    @property
    def steps(self) -> int:
        return len(self.schedule.timesteps)


def advance(weights: Weights, rows: Sequence[Trajectory]) -> None:
    """Take one Euler step with every row in one call of the transformer; the rows have one size.

    The latents are rounded to float32 before it, as diffusers' scheduler does, and never to less.

    Raises:
        IndexError: If a row has no step left; then none has changed.
    """
    latents = torch.stack([row.latents for row in rows])
    flat = torch.stack([row.table[row.step] for row in rows])
    sigmas = [row.schedule.sigmas[row.step : row.step + 2] for row in rows]
    # As the scheduler, which keeps sigmas in float32.
    before, after = torch.tensor(sigmas, dtype=torch.float32).to(latents.device, non_blocking=True).unbind(dim=1)
    velocity = _velocity(weights, latents, torch.stack([row.context for row in rows]), flat, rows[0].rotary)
    wide = torch.promote_types(velocity.dtype, torch.float32)
    latents = latents.float() + (after - before).view(-1, 1, 1) * velocity.to(wide)
    for row, moved in zip(rows, latents.unbind(), strict=True):
        row.latents = moved
        row.step += 1


def _velocity(weights: Weights, latents: Tensor, context: Tensor, flat: Tensor, rotary: Tensor) -> Tensor:
    """Return d latents / d sigma, of the latents' shape, in the model's dtype.

    This is the transformer's own forward, but that each block has its modulation from the tables.
    """
    transformer, numbers = weights.transformer, weights.modulation.numbers(flat)
    hidden = transformer.x_embedder(latents.to(weights.dtype))
    cosines_sines = tuple(rotary.unbind())
    stages = (
        (transformer.transformer_blocks, numbers.double),
        (transformer.single_transformer_blocks, numbers.single),
    )
    for blocks, own in stages:
        for block, temb in zip(blocks, own, strict=True):
            context, hidden = block(hidden, context, temb, cosines_sines)
    velocity: Tensor = transformer.proj_out(transformer.norm_out(hidden, numbers.out))
    return velocity
