"""Ways to let one key stand for 512 equal ones in attention, exactly.

Queries, keys and values are (rows, tokens, heads, width); token 0 is the null token, whose key counts 512 fold.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final, NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import _get_qkv_projections
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from tests.bench.gpu_models import NULLS
from worker.redux.attention import biases

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  #: queries, keys, values
Partial = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  #: (rows, heads, tokens, width); log-sum-exps too

NATIVE: Final = AttentionBackendName.NATIVE
CUDNN: Final = AttentionBackendName._NATIVE_CUDNN
FLASH: Final = AttentionBackendName._NATIVE_FLASH
_LOG: Final = math.log(NULLS)
_ATEN: Final = torch.ops.aten


class Way(NamedTuple):
    """One of the ways."""

    attend: Attend
    runs_on: frozenset[str] = frozenset({"cpu", "cuda"})  #: kinds of devices


class Processor:
    """diffusers' FluxAttnProcessor with another way to attend."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        projected = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query, key, value, *context = (_heads(x, attn.head_dim) for x in projected if torch.is_tensor(x))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if context:
            own = attn.norm_added_q(context[0]), attn.norm_added_k(context[1]), context[2]
            query, key, value = (torch.cat(pair, dim=1) for pair in zip(own, (query, key, value), strict=True))
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (query, key))
        attended = self.attend(query, key, value).flatten(2)
        if encoder_hidden_states is None:
            return attended
        tokens = encoder_hidden_states.shape[1]
        return attn.to_out[0](attended[:, tokens:].contiguous()), attn.to_add_out(attended[:, :tokens].contiguous())


def _heads(rows: Any, width: int) -> Any:
    return rows.unflatten(-1, (-1, width))


def expanded(query: Tensor, key: Tensor, value: Tensor, *, backend: AttentionBackendName) -> Tensor:
    """One query, 512 keys, as ``worker.redux.attention`` does it by default: no mask, so every kernel can do it."""
    keys, values = repeated(key, NULLS), repeated(value, NULLS)
    return dispatch_attention_fn(query, keys, values, backend=backend)  # type: ignore[no-any-return]


def biased(query: Tensor, key: Tensor, value: Tensor, *, backend: AttentionBackendName, full: bool = False) -> Tensor:
    """A key or a few, with biases, as ``worker.redux.attention`` does it; ``full``: a mask row for each query."""
    extra = biases(query.dtype)
    keys, values = repeated(key, len(extra)), repeated(value, len(extra))
    mask = query.new_zeros(1, 1, 1, keys.shape[1])
    for place, bias in enumerate(extra):
        mask[..., place] = bias
    if full:
        mask = mask.expand(-1, -1, query.shape[1], -1).contiguous()
    return dispatch_attention_fn(query, keys, values, attn_mask=mask, backend=backend)  # type: ignore[no-any-return]


def repeated(rows: Tensor, copies: int) -> Tensor:
    return torch.cat([rows[:, :1].expand(-1, copies, -1, -1), rows[:, 1:]], dim=1)


def flexed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same bias without a mask in memory."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if torch.compiler.is_compiling():
        attended: Any = flex_attention(query, key, value, score_mod=_score)
    elif query.is_cuda:
        attended = _compiled_flex()(query, key, value, score_mod=_score)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            attended = flex_attention(query, key, value, score_mod=_score)
    return attended.transpose(1, 2)  # type: ignore[no-any-return]


def merged(query: Tensor, key: Tensor, value: Tensor, *, others: Partial) -> Tensor:
    """Attention over the other keys alone, then the null key's share of the sum, which is known in closed form."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    attended, lse = others(query, key[:, :, 1:], value[:, :, 1:])
    exact = torch.promote_types(query.dtype, torch.float32)
    score = (query.to(exact) * key[:, :, :1].to(exact)).sum(dim=-1, keepdim=True) / math.sqrt(query.shape[-1])
    share = torch.sigmoid(score + _LOG - lse.reshape(score.shape))
    return torch.lerp(attended.to(exact), value[:, :, :1].to(exact), share).to(query.dtype).transpose(1, 2)


def flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    found = _ATEN._scaled_dot_product_flash_attention(query, key, value)
    return found[0], found[1]


def cudnn(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    found = _ATEN._scaled_dot_product_cudnn_attention(query, key, value, None, True)  # noqa: FBT003
    return found[0], found[1]


def cpu_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    found = _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    return found[0], found[1]


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _score(score: Tensor, _row: Tensor, _head: Tensor, _query: Tensor, key: Tensor) -> Tensor:
    return torch.where(key == 0, score + _LOG, score)


_GPU: Final = frozenset({"cuda"})
#: All ways, by name.
WAYS: Final = {
    "expanded": Way(partial(expanded, backend=NATIVE)),
    "expanded, cuDNN": Way(partial(expanded, backend=CUDNN), _GPU),
    "expanded, flash": Way(partial(expanded, backend=FLASH)),
    "bias": Way(partial(biased, backend=NATIVE)),
    "bias, cuDNN": Way(partial(biased, backend=CUDNN), _GPU),
    "bias, cuDNN, full mask": Way(partial(biased, backend=CUDNN, full=True), _GPU),
    "FlexAttention": Way(flexed),
    "merged, cuDNN": Way(partial(merged, others=cudnn), _GPU),
    "merged, flash": Way(partial(merged, others=flash), _GPU),
    "merged, CPU's flash": Way(partial(merged, others=cpu_flash), frozenset({"cpu"})),
}
