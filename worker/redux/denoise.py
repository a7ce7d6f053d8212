"""The denoising of one job's variations, one step at a time.

Source: diffusers, pipeline_flux.py.
"""

from dataclasses import dataclass

from torch import Tensor

from shared.jobs import Recipe
from worker.redux.latents import noise, positions
from worker.redux.schedule import Schedule, make_schedule
from worker.redux.weights import Weights


@dataclass(eq=False)
class Denoising:
    """The trajectories of one job, all at the same step."""

    latents: Tensor  #: (variations, tokens, channels) float32, packed
    condition: Tensor  #: (1, context, width), shared by all rows
    positions: Tensor  #: (tokens, 3)
    schedule: Schedule
    recipe: Recipe
    step: int = 0  #: steps done

    @property
    def steps(self) -> int:
        return len(self.schedule.timesteps)

    @property
    def finished(self) -> bool:
        return self.step == self.steps


def begin(weights: Weights, condition: Tensor, recipe: Recipe) -> Denoising:
    """Return a trajectory of pure noise for each seed.

    Each row has a generator of its own on the CPU, so any one can be made again alone, on any device.

    Raises:
        ValueError: If a side is not a positive multiple of 16 pixels.
    """
    channels = weights.transformer.config.in_channels // 4
    latents = noise(recipe.seeds, channels=channels, size=recipe.size).to(weights.device)
    return Denoising(
        latents=latents,
        condition=condition,
        positions=positions(recipe.size).to(weights.device, weights.dtype),
        schedule=make_schedule(weights.scheduler, recipe.num_inference_steps, latents.shape[1]),
        recipe=recipe,
    )


def advance(weights: Weights, denoising: Denoising) -> None:
    """Take one Euler step with every row in one call of the transformer.

    The latents stay in float32 between the steps, also where the transformer computes in less.

    Raises:
        IndexError: If no step is left.
    """
    step, sigmas = denoising.step, denoising.schedule.sigmas
    velocity = _velocity(weights, denoising, denoising.schedule.timesteps[step])
    denoising.latents = denoising.latents + (sigmas[step + 1] - sigmas[step]) * velocity
    denoising.step += 1


def _velocity(weights: Weights, denoising: Denoising, timestep: float) -> Tensor:
    """Return d latents / d sigma, float32, of the latents' shape."""
    transformer, latents, condition = weights.transformer, denoising.latents, denoising.condition
    rows = latents.shape[0]
    guided = transformer.config.guidance_embeds
    velocity: Tensor = transformer(
        hidden_states=latents.to(weights.dtype),
        encoder_hidden_states=condition.expand(rows, -1, -1),
        pooled_projections=condition.new_zeros(rows, transformer.config.pooled_projection_dim),
        timestep=condition.new_full((rows,), timestep) / 1000,
        guidance=latents.new_full((rows,), denoising.recipe.guidance_scale) if guided else None,
        img_ids=denoising.positions,
        txt_ids=condition.new_zeros(condition.shape[1], denoising.positions.shape[1]),
        return_dict=False,
    )[0]
    return velocity.float()
