"""Finished latents become pictures.

Source: diffusers, pipeline_flux.py; image_processor.py.
"""

import torch
from PIL import Image
from torch import Tensor

from shared.errors import ModelFailed
from shared.images import Picture
from worker.redux.denoise import Trajectory
from worker.redux.latents import unpack
from worker.redux.weights import Weights


def colours(weights: Weights, row: Trajectory) -> Tensor:
    """Return what the VAE makes of the latents, (3, height, width), about -1 ... 1."""
    config = weights.vae.config
    cells = unpack(row.latents.unsqueeze(0), row.size)
    scaled = (cells / config.scaling_factor + config.shift_factor).to(weights.dtype)
    decoded: Tensor = weights.vae.decode(scaled, return_dict=False)[0][0]
    return decoded


def levels(decoded: Tensor) -> Tensor:
    """Return (height, width, 4) uint8: red, green, blue, and 1 where all three are finite numbers."""
    shown = (decoded.float() / 2 + 0.5).clamp(0, 1).mul(255).round()
    finite = decoded.isfinite().all(dim=0, keepdim=True)
    return torch.cat([shown, finite]).to(torch.uint8).permute(1, 2, 0).contiguous()


def picture(shown: Tensor) -> Picture:
    """Return the picture of levels that have come to the CPU.

    Raises:
        ModelFailed: If it is not made of finite numbers.
    """
    if not shown[..., 3].all():
        raise ModelFailed("the model computed numbers that are not finite")
    return Image.fromarray(shown[..., :3].numpy())
