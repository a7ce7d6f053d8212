"""How much noise is left before each step.

Source: diffusers, pipeline_flux.py; scheduling_flow_match_euler_discrete.py.
"""

from dataclasses import dataclass
from functools import lru_cache

from diffusers import FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True)
class Schedule:
    """The steps of one trajectory; a value, so that no two trajectories share a scheduler's state."""

    sigmas: tuple[float, ...]  #: share of noise before each step, from 1 down, and 0 at the end: steps + 1 numbers
    timesteps: tuple[float, ...]  #: the same in the transformer's unit, thousandths: one for each step


@lru_cache(maxsize=1100)  # 22 sizes x 50 steps
def make_schedule(scheduler: FlowMatchEulerDiscreteScheduler, num_inference_steps: int, tokens: int) -> Schedule:
    """Return what the stock pipeline would use for a picture of so many tokens; ``scheduler`` is left as it was."""
    own = type(scheduler).from_config(scheduler.config)
    even = [left / num_inference_steps for left in range(num_inference_steps, 0, -1)]
    own.set_timesteps(sigmas=even, mu=_shift(scheduler, tokens))
    return Schedule(sigmas=tuple(own.sigmas.tolist()), timesteps=tuple(own.timesteps.tolist()))


def _shift(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int) -> float:
    """Return mu: larger pictures spend more of their steps on strong noise, in proportion to their tokens."""
    config = scheduler.config
    fraction = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
    mu: float = config.base_shift + fraction * (config.max_shift - config.base_shift)
    return mu
