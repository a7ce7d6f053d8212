"""Finished latents become pictures.

Source: diffusers, pipeline_flux.py; image_processor.py.
"""

import torch
from PIL import Image
from torch import Tensor

from shared.errors import ModelFailed
from shared.images import Picture
from worker.redux.denoise import Denoising
from worker.redux.latents import unpack
from worker.redux.weights import Weights


def decode(weights: Weights, denoising: Denoising) -> list[Picture]:
    """Return the pictures in the rows' order, RGB; decoded one by one, so that memory does not grow with the rows.

    Raises:
        ModelFailed: If a picture is not made of finite numbers.
    """
    cells = unpack(denoising.latents, denoising.recipe.size)
    return [_picture(weights, row) for row in cells.unsqueeze(1)]


def _picture(weights: Weights, cells: Tensor) -> Picture:
    config = weights.vae.config
    scaled = (cells / config.scaling_factor + config.shift_factor).to(weights.dtype)
    colours: Tensor = weights.vae.decode(scaled, return_dict=False)[0].squeeze(0).float()
    if not colours.isfinite().all():
        raise ModelFailed("the model computed numbers that are not finite")
    levels = (colours / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
