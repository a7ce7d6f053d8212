"""Latents: a picture at an eighth of its size, in which each token is a patch of 2 x 2 cells.

Source: diffusers, pipeline_flux.py; the packing of black-forest-labs/flux.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.sizes import TOKEN_PIXELS, Size


def grid(size: Size) -> tuple[int, int]:
    """Return (rows, columns) of tokens for a picture of that size.

    Raises:
        ValueError: If a side is not a positive multiple of 16; FluxPipeline would round it down in silence.
    """
    width, height = size
    if min(width, height) < TOKEN_PIXELS or width % TOKEN_PIXELS or height % TOKEN_PIXELS:
        raise ValueError(f"width and height are positive multiples of {TOKEN_PIXELS}, not {width} x {height}")
    return height // TOKEN_PIXELS, width // TOKEN_PIXELS


def noise(seeds: Sequence[int], *, channels: int, size: Size) -> Tensor:
    """Return one row of packed noise for each seed, whatever its neighbours, on any device.

    Returns:
        (seeds, tokens, 4 * channels) float32 on the CPU; rounded to bfloat16 it is what FluxPipeline draws there.
    """
    rows, columns = grid(size)
    shape = (1, channels, 2 * rows, 2 * columns)
    return torch.cat([pack(torch.randn(shape, generator=torch.Generator().manual_seed(seed))) for seed in seeds])


def pack(cells: Tensor) -> Tensor:
    """Turn (n, channels, 2 * rows, 2 * columns) into (n, rows * columns, 4 * channels)."""
    n, channels, height, width = cells.shape
    patches = cells.reshape(n, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, size: Size) -> Tensor:
    """Undo ``pack`` for a picture of that size."""
    patches = tokens.reshape(tokens.shape[0], *grid(size), -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(size: Size) -> Tensor:
    """Return (tokens, 3) float32: 0, row and column of each token, as the rotary embedding wants them."""
    rows, columns = grid(size)
    return torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(columns)))
