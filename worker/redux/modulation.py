"""What time and guidance do to each block, computed ahead: the modulation layers are never on the device.

A block's norms scale and shift by a linear function of an embedding of timestep, guidance and pooled prompt. Without a
prompt the last is zero, so a step's numbers follow from its timestep and guidance alone, whatever is varied; with one
they would not. See docs/engine.md.

Source: diffusers, transformer_flux.py; normalization.py.
"""

import copy
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import diffusers
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from worker.redux.shards import Shards


class Numbers(NamedTuple):
    """One step's numbers of some rows, which the blocks take in the place of the embedding."""

    double: Sequence[Tensor]  #: for each double block (rows, 12 * width): the image's six, then the context's
    single: Sequence[Tensor]  #: for each single block (rows, 3 * width)
    out: Tensor  #: (rows, 2 * width)


class _Half(nn.Module):
    """Stands where a double block had a modulation layer."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.chunk(2, dim=1)[self._place]


class Modulation:
    """The modulation layers of a transformer, which stay in its files.

    Args:
        transformer: On the meta device; it loses the layers, and its norms take what they are given as it is.
        shards: Its files.
        dtype: In which the layers compute.
        device: On which they compute, one after another.
    """

    def __init__(
        self, transformer: FluxTransformer2DModel, shards: Shards, dtype: torch.dtype, device: torch.device
    ) -> None:
        config = transformer.config
        self._shards, self._dtype, self._device = shards, dtype, device
        self._guided: bool = config.guidance_embeds
        self._pooled: int = config.pooled_projection_dim
        self._split = (config.num_layers, config.num_single_layers, transformer.inner_dim)
        self._embedder = transformer.time_text_embed
        del transformer.time_text_embed
        self._layers = _take_layers(transformer)

    def table(self, timesteps: Sequence[float], guidance_scale: float) -> Tensor:
        """Compute the numbers of all steps of a trajectory, each as diffusers computes it for one row.

        Returns:
            (steps, numbers): 12 * width for each double block, 3 for each single one, 2 behind them.
        """
        embeddings = [silu(embedding) for embedding in self._embeddings(timesteps, guidance_scale)]
        columns = []
        for layer in self._layers:
            weight, bias = self._read(f"{layer}.weight"), self._read(f"{layer}.bias")
            columns.append(torch.cat([linear(embedding, weight, bias) for embedding in embeddings]))
        return torch.cat(columns, dim=1)

    def numbers(self, flat: Tensor) -> Numbers:
        """Split rows of tables, (rows, numbers), by blocks."""
        doubles, singles, width = self._split
        double, single, out = torch.split(flat, [doubles * 12 * width, singles * 3 * width, 2 * width], dim=1)
        return Numbers(_by_block(double, doubles), _by_block(single, singles), out)

    def fingerprint(self) -> str:
        """Return what changes when a table would: files, the embedder, biases, a row of each layer, how all compute."""
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type
        how = (self._shards.versions, torch.__version__, diffusers.__version__, where, str(self._dtype))
        found = sha256(repr(how).encode())
        parts: list[tuple[str, int | None]] = [
            (f"time_text_embed.{name}", None) for name in self._embedder.state_dict()
        ]
        for layer in self._layers:
            # What is merged into a layer's weights changes their first row too; all of them are 6.5 GB in FLUX.1.
            parts += [(f"{layer}.bias", None), (f"{layer}.weight", 1)]
        for name, rows in parts:
            found.update(self._shards.read(name, rows).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _embeddings(self, timesteps: Sequence[float], guidance_scale: float) -> list[Tensor]:
        """Return (1, width) for each step, rounded on the way as the pipeline and the transformer round."""
        embedder = copy.deepcopy(self._embedder)
        tensors = {name: self._read(f"time_text_embed.{name}") for name in embedder.state_dict()}
        embedder.load_state_dict(tensors, assign=True)
        guidance = [self._scalar(guidance_scale) * 1000] if self._guided else []
        pooled = torch.zeros(1, self._pooled, device=self._device, dtype=self._dtype)
        return [embedder(self._scalar(timestep) / 1000 * 1000, *guidance, pooled) for timestep in timesteps]

    def _scalar(self, value: float) -> Tensor:
        return torch.full((1,), value, device=self._device, dtype=torch.float32).to(self._dtype)

    def _read(self, name: str) -> Tensor:
        return self._shards.read(name).to(self._device, self._dtype)


def _take_layers(transformer: FluxTransformer2DModel) -> list[str]:
    """Take the layers out of a transformer; return their names in the order of a table's columns."""
    layers = []
    for place, block in enumerate(transformer.transformer_blocks):
        for half, name in enumerate(("norm1", "norm1_context")):
            norm = getattr(block, name)
            norm.silu, norm.linear = nn.Identity(), _Half(half)
            layers.append(f"transformer_blocks.{place}.{name}.linear")
    for place, block in enumerate(transformer.single_transformer_blocks):
        block.norm.silu, block.norm.linear = nn.Identity(), nn.Identity()
        layers.append(f"single_transformer_blocks.{place}.norm.linear")
    transformer.norm_out.silu, transformer.norm_out.linear = nn.Identity(), nn.Identity()
    return [*layers, "norm_out.linear"]


def _by_block(flat: Tensor, blocks: int) -> Sequence[Tensor]:
    """Return (rows, numbers of one) of each block, alike in memory, for the same compiled code."""
    return flat.reshape(len(flat), blocks, -1).transpose(0, 1).contiguous().unbind()
