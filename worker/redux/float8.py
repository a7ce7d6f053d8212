"""Products in 8 bits: the one tier that is not exact.

Each row of the weights has a scale that is found when it is loaded, each row of the activations one that is found on
the way. Only layers of the transformer's blocks are replaced; the first, the last and the modulation keep 16 bits.
"""

from typing import Final

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

from shared.errors import ModelUnavailable

_EIGHT_BITS: Final = torch.float8_e4m3fn
_LARGEST: Final = torch.finfo(_EIGHT_BITS).max


class Float8Linear(nn.Module):
    """Takes the place of a linear layer, both sides multiples of 16; what goes in and comes out is bfloat16."""

    scale: Tensor  #: (1, out) float32

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def quantise(self, weight: Tensor) -> None:
        """Take the weights (out, in)."""
        eight_bits, scale = _quantised(weight)
        self.weight = nn.Parameter(eight_bits, requires_grad=False)
        self.register_buffer("scale", scale.t().contiguous())

    def forward(self, rows: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        eight_bits, scale = _quantised(rows.flatten(0, -2))
        scales = (scale, ScalingType.RowWise, self.scale, ScalingType.RowWise)
        made: Tensor = scaled_mm(eight_bits, self.weight.t(), *scales, bias=self.bias, use_fast_accum=True)
        return made.reshape(*rows.shape[:-1], -1)


def use_float8(transformer: FluxTransformer2DModel, device: torch.device) -> None:
    """Replace the linear layers of the blocks, before they have tensors.

    Raises:
        ModelUnavailable: If the device has no such product.
    """
    try:
        one, column, row = (torch.ones(shape, device=device) for shape in ((16, 16), (16, 1), (1, 16)))
        scales = (column, ScalingType.RowWise, row, ScalingType.RowWise)
        scaled_mm(one.to(_EIGHT_BITS), one.to(_EIGHT_BITS).t(), *scales, use_fast_accum=True)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelUnavailable(f"{device} has no float8 products; mend REDUXQ_MODEL__PRECISION ({reason})") from error
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        for name, layer in list(blocks.named_modules()):
            if isinstance(layer, nn.Linear):
                blocks.set_submodule(name, Float8Linear(layer))


def _quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in 8 bits and the scale of each, (n, 1) float32, with which its largest number becomes 448."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (rows / scale).clamp(-_LARGEST, _LARGEST).to(_EIGHT_BITS), scale
