"""Attention in which one row stands for all the rows of the prompt that is absent.

Without a prompt 512 rows of the context are zero and share one position. Every block treats rows of one position alike,
so they stay equal, and as keys they count ``512 * exp(s) = exp(s + log 512)``: see docs/engine.md. With a prompt they
would differ, and this would not hold. Of the last block nobody reads the context's rows, with a prompt or without, so
it makes none.

Source: diffusers, transformer_flux.py: FluxAttnProcessor, FluxSingleTransformerBlock.forward, whose place this takes.
"""

from math import exp, log
from types import MethodType
from typing import Any, Final, Literal

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import pad

#: Rows that an absent T5 prompt leaves, all zero: its longest sequence.
PROMPT_ROWS: Final = 512

Way = Literal["expanded", "bias"]


def collapse(transformer: FluxTransformer2DModel, how: Way, like: Tensor) -> None:
    """Have the blocks attend by :class:`CollapsedAttention` and the last single one make the image's rows alone."""
    transformer.set_attn_processor(CollapsedAttention(how, like))
    for last in transformer.single_transformer_blocks[-1:]:
        last.forward = MethodType(_image_rows, last)


class CollapsedAttention:
    """Attends to the context's first row as if it were there :data:`PROMPT_ROWS` times.

    Args:
        how: ``expanded`` repeats its key and value so often, which needs no mask; ``bias`` raises its score instead.
        like: A tensor of the device and dtype that attention gets.
    """

    def __init__(self, how: Way, like: Tensor) -> None:
        self._bias = None if how == "expanded" else like.new_tensor(biases(like.dtype))
        self._copies = PROMPT_ROWS if self._bias is None else len(self._bias)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: None,  # noqa: ARG002  diffusers' module hands it over
        image_rotary_emb: tuple[Tensor, Tensor],
        *,
        skip: int = 0,
    ) -> Any:
        """Return (rows, tokens, width), with a context the image's part and its part; the first ``skip`` do not ask."""
        (query,) = _heads(attn, hidden_states[:, skip:], attn.to_q)
        key, value = _heads(attn, hidden_states, attn.to_k, attn.to_v)
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            added = _heads(attn, encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            query = torch.cat([attn.norm_added_q(added[0]), query], dim=1)
            key = torch.cat([attn.norm_added_k(added[1]), key], dim=1)
            value = torch.cat([added[2], value], dim=1)
        cosines, sines = image_rotary_emb
        query = apply_rotary_emb(query, (cosines[skip:], sines[skip:]), sequence_dim=1)
        key = apply_rotary_emb(key, (cosines, sines), sequence_dim=1)
        mask = None if self._bias is None else pad(self._bias, (0, key.shape[1] - 1)).expand(1, 1, 1, -1)
        mixed = dispatch_attention_fn(query, self._repeated(key), self._repeated(value), attn_mask=mask).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, length:]), attn.to_add_out(mixed[:, :length])

    def _repeated(self, rows: Tensor) -> Tensor:
        if self._copies == 1:
            return rows
        return torch.cat([rows[:, :1].expand(-1, self._copies, -1, -1), rows[:, 1:]], dim=1)


def biases(dtype: torch.dtype) -> list[float]:
    """Return numbers of ``dtype`` whose exponentials add up to :data:`PROMPT_ROWS`, to about 5e-7 or better.

    In bfloat16 the nearest to log 512 is 6.25 and would count 518 rows, so it takes several, each for what is left.
    """
    near = 4 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * PROMPT_ROWS
    found: list[float] = []
    while (left := PROMPT_ROWS - sum(map(exp, found))) > near:
        wanted = torch.tensor(log(left), dtype=torch.float64)
        nearest = float(wanted.to(dtype))
        below = float((wanted - wanted.abs() * torch.finfo(dtype).eps).to(dtype))
        found.append(below if exp(nearest) > left + near else nearest)
    return found


def _image_rows(
    block: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    image_rotary_emb: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the context as it came, for nobody reads what the block would make of it, and the image's rows."""
    context = encoder_hidden_states.shape[1]
    rows, gate = block.norm(torch.cat([encoder_hidden_states, hidden_states], dim=1), emb=temb)
    mixed = block.attn(hidden_states=rows, image_rotary_emb=image_rotary_emb, skip=context)
    made = torch.cat([mixed, block.act_mlp(block.proj_mlp(rows[:, context:]))], dim=2)
    hidden_states = hidden_states + gate.unsqueeze(1) * block.proj_out(made)
    if hidden_states.dtype == torch.float16:  # as the stock block
        most = torch.finfo(torch.float16).max
        hidden_states = hidden_states.clip(-most, most)
    return encoder_hidden_states, hidden_states


def _heads(attn: Any, rows: Tensor, *projections: Any) -> tuple[Tensor, ...]:
    """Return (rows, tokens, heads, width of one) of each projection."""
    return tuple(projection(rows).unflatten(-1, (-1, attn.head_dim)) for projection in projections)
