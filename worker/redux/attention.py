"""Attention in which one row stands for all the rows of the prompt that is absent.

Without a prompt 512 rows of the context are zero and share one position. Every block treats rows of one position alike,
so they stay equal, and as keys they count ``512 * exp(s) = exp(s + log 512)``: see docs/engine.md. With a prompt they
would differ, and this would not hold.

Source: diffusers, transformer_flux.py, FluxAttnProcessor, which this takes the place of.
"""

from math import exp, log
from typing import Any, Final, Literal

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import pad

#: Rows that an absent T5 prompt leaves, all zero: its longest sequence.
PROMPT_ROWS: Final = 512


class CollapsedAttention:
    """Attends to the context's first row as if it were there :data:`PROMPT_ROWS` times.

    Args:
        how: ``expanded`` repeats its key and value so often, which needs no mask; ``bias`` raises its score instead.
        like: A tensor of the device and dtype that attention gets.
    """

    def __init__(self, how: Literal["expanded", "bias"], like: Tensor) -> None:
        self._bias = None if how == "expanded" else like.new_tensor(biases(like.dtype))
        self._copies = PROMPT_ROWS if self._bias is None else len(self._bias)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,  # noqa: ARG002  diffusers' module hands it over
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """Return (rows, tokens, width), with a context the image's part and its part."""
        query, key, value = _heads(attn, hidden_states, attn.to_q, attn.to_k, attn.to_v)
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            added = _heads(attn, encoder_hidden_states, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            query = torch.cat([attn.norm_added_q(added[0]), query], dim=1)
            key = torch.cat([attn.norm_added_k(added[1]), key], dim=1)
            value = torch.cat([added[2], value], dim=1)
        query, key = (apply_rotary_emb(turned, image_rotary_emb, sequence_dim=1) for turned in (query, key))
        mask = None if self._bias is None else pad(self._bias, (0, key.shape[1] - 1)).expand(1, 1, 1, -1)
        mixed = dispatch_attention_fn(query, self._repeated(key), self._repeated(value), attn_mask=mask).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, length:]), attn.to_add_out(mixed[:, :length])

    def _repeated(self, rows: Tensor) -> Tensor:
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


def _heads(attn: Any, rows: Tensor, *projections: Any) -> tuple[Tensor, ...]:
    """Return (rows, tokens, heads, width of one) of each projection."""
    return tuple(projection(rows).unflatten(-1, (-1, attn.head_dim)) for projection in projections)
