"""What is compared: the stock step, ours as it ships, and what else could be done; attention and the VAE alone.

What ships is made of ``worker.redux`` itself.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from tests.bench.gpu_attention import WAYS, Processor
from tests.bench.gpu_meter import free
from tests.bench.gpu_models import (
    ATTENTION_GAIN,
    GUIDANCE,
    NO_TEXT_ENCODERS,
    NULLS,
    Inputs,
    Scale,
    make_inputs,
    make_scheduler,
    make_transformer,
    make_vae,
    stock_call,
)
from tests.bench.gpu_rows import LARGE, ONE, SMALL, Point
from worker.redux.attention import CollapsedAttention, collapse
from worker.redux.denoise import _velocity
from worker.redux.float8 import use_float8
from worker.redux.latents import grid, positions
from worker.redux.model import compile_blocks
from worker.redux.modulation import Modulation
from worker.redux.weights import _fill

SHIPPED: Final = ("expanded", "bias")  #: ways to attend that ``worker.redux.attention`` has
Call = Callable[[], Tensor]
Prepared = tuple[nn.Module | None, Callable[[Point], Call]]  #: what holds the weights; what makes a point's call


class Bench:
    """The weights that all variants share, and what they are given.

    Args:
        scale: How large.
        device: Torch's; a CPU compiles nothing.
        dtype: What the variants compute in.
    """

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self.scale, self.device, self.dtype = scale, device, dtype
        self.wide = torch.float32 if dtype == torch.bfloat16 else torch.float64  #: of the reference
        self.stock = make_transformer(scale, device, dtype)
        self.tensors: dict[str, Tensor] = self.stock.state_dict()
        self.sizes = {LARGE: scale.large, SMALL: scale.small}
        self.expected: dict[str, Tensor] = {}  #: velocities that all are compared with, by size
        self._inputs = {name: make_inputs(scale, size, self.stock) for name, size in self.sizes.items()}

    def inputs(self, point: Point) -> Inputs:
        return self._inputs[point.size].rows(slice(point.rows))

    def copy(self, dtype: torch.dtype | None = None) -> FluxTransformer2DModel:
        """Return a stock transformer of the same tensors, which stay as they are, or of wider ones."""
        with torch.device("meta"):
            network = FluxTransformer2DModel.from_config(self.stock.config)
        tensors = {name: tensor.to(dtype or self.dtype) for name, tensor in self.tensors.items()}
        network.load_state_dict(tensors, assign=True)
        return network.eval().requires_grad_(requires_grad=False)

    def drop(self) -> None:
        """Give the device back; the bench is of no more use."""
        del self.stock, self.tensors, self._inputs, self.expected
        free(self.device)

    def compile(self, network: FluxTransformer2DModel, blocks: Callable[[FluxTransformer2DModel], None]) -> None:
        """Compile the blocks in some way, if this is a GPU."""
        if self.device.type == "cuda":
            blocks(network)


class Memory:
    """What ``worker.redux`` reads its tensors from, without a disk."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self.names = list(tensors)

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


class Ours(NamedTuple):
    """As much of ``worker.redux.weights.Weights`` as a step needs."""

    transformer: FluxTransformer2DModel
    modulation: Modulation
    dtype: torch.dtype


def stock(bench: Bench, *, compiled: bool = False, collapsed: bool = False) -> Prepared:
    """The transformer as diffusers has it; ``collapsed``: but for the null rows."""
    network = bench.copy()
    if collapsed:
        network.set_attn_processor(CollapsedAttention("expanded", bench.stock.proj_out.weight))
    if compiled:
        bench.compile(network, FluxTransformer2DModel.compile_repeated_blocks)

    def at(point: Point) -> Call:
        given = stock_call(network, bench.inputs(point), 1 if collapsed else NULLS)
        return lambda: network(**given)[0]

    return network, at


@torch.inference_mode()
def stock_picture(bench: Bench) -> dict[str, float]:
    """Return how long diffusers' pipeline takes for a picture, condition apart, as its users call it."""
    vae = make_vae(bench.scale, bench.device, bench.dtype)
    pipeline = FluxPipeline(transformer=bench.stock, vae=vae, scheduler=make_scheduler(), **NO_TEXT_ENCODERS)
    pipeline.set_progress_bar_config(disable=True)
    given = stock_call(bench.stock, bench.inputs(ONE))

    def picture(steps: int) -> float:
        began = perf_counter()
        pipeline(
            prompt_embeds=given["encoder_hidden_states"],
            pooled_prompt_embeds=given["pooled_projections"],
            width=bench.scale.large.width,
            height=bench.scale.large.height,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(1),
        )
        return perf_counter() - began

    return {"first_s": picture(1), "image_s": picture(bench.scale.steps)}


def ours(bench: Bench, attention: str = "expanded", *, compiled: bool = True, graph: bool = False) -> Prepared:
    """The step as the worker takes it, with one of its own ways to attend or another of :data:`WAYS`.

    With another, the last block makes the context too: 0.2 % of a step at 1 megapixel, 0.6 % at 0.25.
    """
    weights = shipped(bench)
    like = bench.stock.proj_out.weight
    ships: Any = attention
    if attention in SHIPPED:
        collapse(weights.transformer, ships, like)
    else:
        weights.transformer.set_attn_processor(Processor(WAYS[attention].attend))
    return stepping(bench, weights, compiled=compiled, graph=graph)


def ours_fused(bench: Bench, *, graph: bool = False) -> Prepared:
    """One product for queries, keys and values, and no longer the layers that it replaces."""
    weights = shipped(bench)
    for module in list(weights.transformer.modules()):
        if hasattr(module, "fuse_projections"):
            module.fuse_projections()
            for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
                module._modules.pop(name, None)
    weights.transformer.set_attn_processor(Processor(WAYS["expanded"].attend))
    return stepping(bench, weights, graph=graph)


def ours_float8(bench: Bench, *, torchao: bool = False, graph: bool = False) -> Prepared:
    """The blocks' products in 8 bits, by the worker's layers or by torchao's, a scale for each row."""
    weights = shipped(bench, eight_bits=not torchao)
    collapse(weights.transformer, "expanded", bench.stock.proj_out.weight)
    if torchao:
        quantization: Any = import_module("torchao.quantization")
        rows = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
        for blocks in (weights.transformer.transformer_blocks, weights.transformer.single_transformer_blocks):
            quantization.quantize_(blocks, rows)
    return stepping(bench, weights, graph=graph)


def stepping(bench: Bench, weights: "Ours", *, compiled: bool = True, graph: bool = False) -> Prepared:
    """Compile the blocks, and say what takes a step with them."""
    if compiled:
        bench.compile(weights.transformer, compile_blocks)

    def at(point: Point) -> Call:
        call = partial(_velocity, weights, *our_call(weights, bench.inputs(point)))  # type: ignore[arg-type]
        return captured(call) if graph else call

    return weights.transformer, at


def shipped(bench: Bench, *, eight_bits: bool = False) -> Ours:
    """Return transformer and modulation as ``load_weights`` makes them, of the bench's tensors."""
    memory: Any = Memory(bench.tensors)
    with torch.device("meta"):
        network = FluxTransformer2DModel.from_config(bench.stock.config).eval()
    modulation = Modulation(network, memory, bench.dtype, bench.device)
    if eight_bits:
        use_float8(network, bench.device)
    _fill(network, memory, bench.dtype, bench.device)
    return Ours(network, modulation, bench.dtype)


def our_call(weights: Ours, given: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return latents, contexts, modulation and rotary embedding of a step."""
    context = torch.cat([torch.zeros_like(given.source[:, :1]), given.source], dim=1)
    table = weights.modulation.table([1000 * each for each in given.timesteps], GUIDANCE)
    places = torch.cat([torch.zeros(context.shape[1], 3), positions(given.size)]).to(given.latents.device)
    rotary = torch.stack(weights.transformer.pos_embed(places))
    return given.latents, weights.transformer.context_embedder(context), table, rotary


def captured(call: Call) -> Call:
    """Return what replays the call's kernels without Python."""
    call()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def vae(bench: Bench, *, channels_last: bool = False, compiled: bool = False) -> Prepared:
    """The decoder, for one picture at a time, as the worker does it."""
    network = make_vae(bench.scale, bench.device, bench.dtype)
    order = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=order)
    if compiled and bench.device.type == "cuda":
        network.decoder.compile()

    def at(point: Point) -> Call:
        cells = vae_cells(bench, point).contiguous(memory_format=order)
        return lambda: network.decode(cells, return_dict=False)[0]

    return network, at


def vae_cells(bench: Bench, point: Point) -> Tensor:
    rows, columns = grid(bench.sizes[point.size])
    cells = torch.randn(1, 16, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(1))
    return cells.to(bench.device, bench.dtype)


def attention(bench: Bench, way: str) -> Prepared:
    """One call of attention, as each of the 57 blocks makes."""
    return None, lambda point: partial(WAYS[way].attend, *attention_inputs(bench, point))


def attention_inputs(bench: Bench, point: Point) -> list[Tensor]:
    """Return queries, keys and values, (rows, tokens, heads, width), as large as after their norms."""
    config = bench.stock.config
    tokens = 1 + bench.scale.patches + bench.inputs(point).latents.shape[1]
    shape = (point.rows, tokens, config.num_attention_heads, config.attention_head_dim)
    generator = torch.Generator(bench.device).manual_seed(1)
    drawn = [torch.randn(shape, device=bench.device, generator=generator) for _ in range(3)]
    gains = (ATTENTION_GAIN, ATTENTION_GAIN, 1)
    return [(gain * each).to(bench.dtype) for gain, each in zip(gains, drawn, strict=True)]
