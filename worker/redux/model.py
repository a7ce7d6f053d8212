"""FLUX.1 Redux as the worker sees it."""

from typing import Self

import torch
from torch import Tensor

from shared.images import Picture
from shared.jobs import Recipe
from worker.redux import conditioning, decode, denoise
from worker.redux.denoise import Denoising
from worker.redux.weights import Weights, load_weights

__all__ = ["Denoising", "ReduxModel"]


class ReduxModel:
    """One loaded model; used by one thread, with any number of jobs under way."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @classmethod
    def load(cls, base: str, redux: str, *, dtype: str, device: str) -> Self:
        """Load from folders or hub ids; see ``load_weights``.

        Raises:
            ModelUnavailable: If that cannot be done; the message says why, as well as what to do.
        """
        return cls(load_weights(base, redux, dtype=dtype, device=device))

    @property
    def trained(self) -> bool:
        """False for the tiny random bundle, whose pictures are only noise."""
        return self._weights.trained

    @torch.inference_mode()
    def condition(self, source: Picture) -> Tensor:
        """Return what the model sees of ``source``: (1, 512 + patches, width) in the model's dtype, on its device."""
        return conditioning.condition(self._weights, source)

    @torch.inference_mode()
    def begin(self, condition: Tensor, recipe: Recipe) -> Denoising:
        """Return one variation for each seed, all still pure noise; ``condition`` is what :meth:`condition` returned.

        Raises:
            ValueError: If a side is not a positive multiple of 16 pixels.
        """
        return denoise.begin(self._weights, condition, recipe)

    @torch.inference_mode()
    def advance(self, denoising: Denoising) -> None:
        """Take all its variations one step on.

        Raises:
            IndexError: If they are finished.
        """
        denoise.advance(self._weights, denoising)

    @torch.inference_mode()
    def decode(self, denoising: Denoising) -> list[Picture]:
        """Return its variations as RGB pictures, in the order of the seeds.

        Raises:
            ModelFailed: If a picture is not made of finite numbers.
        """
        return decode.decode(self._weights, denoising)
