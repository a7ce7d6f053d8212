"""FLUX.1 Redux as the worker sees it."""

import torch
from torch import Tensor

from shared.images import Picture
from shared.jobs import Recipe
from worker.redux import conditioning, decode, denoise
from worker.redux.denoise import Denoising
from worker.redux.weights import Weights


class ReduxModel:
    """The engine's model; used by one thread, with any number of jobs under way.

    Shapes and errors are told where each method passes on to: ``conditioning``, ``denoise``, ``decode``.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @torch.inference_mode()
    def condition(self, source: Picture) -> Tensor:
        return conditioning.condition(self._weights, source)

    @torch.inference_mode()
    def begin(self, condition: Tensor, recipe: Recipe) -> Denoising:
        return denoise.begin(self._weights, condition, recipe)

    @torch.inference_mode()
    def advance(self, denoising: Denoising) -> None:
        denoise.advance(self._weights, denoising)

    @torch.inference_mode()
    def decode(self, denoising: Denoising) -> list[Picture]:
        return decode.decode(self._weights, denoising)
