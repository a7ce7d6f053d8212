"""FLUX.1 Redux in full size and in tiny, of the hub's classes, with random weights made on the device."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel, ViTConfig, ViTForImageClassification
from transformers.models.siglip import SiglipImageProcessorPil
from transformers.models.vit import ViTImageProcessorPil

from shared.sizes import Size
from worker.redux.latents import grid, positions

PATCH: Final = 14  #: pixels along one side of what becomes a row of the context
NULLS: Final = 512  #: rows that an absent prompt leaves, all zero
GUIDANCE: Final = 4.0  #: that and the timesteps are exact in bfloat16, times 1000 too, so that no error is theirs
TIMESTEPS: Final = (1.0, 0.5, 0.25, 0.125)  #: of the rows of a call, which are at different steps
ATTENTION_GAIN: Final = 2.0  #: of normed queries and keys: with 1 attention is nearly even, and no mistake in it shows
NO_TEXT_ENCODERS: Final = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
SHARD: Final = "10GB"  #: a file at most, as the hub's


class Scale(NamedTuple):
    """How large everything is."""

    name: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    vision: dict[str, Any]
    checker: dict[str, Any]
    large: Size
    small: Size
    steps: int
    megapixels: str  #: of a job through the service

    @property
    def patches(self) -> int:
        """Rows of the context that a source makes: 27 x 27 for FLUX.1 Redux."""
        side: int = self.vision["image_size"] // PATCH
        return side * side


_LITTLE: Final = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
FULL: Final = Scale(
    name="full",
    transformer={},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    vision={
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
    },
    checker={},
    large=Size(1024, 1024),
    small=Size(512, 512),
    steps=28,
    megapixels="1",
)
TINY: Final = Scale(
    name="tiny",
    transformer={
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    },
    vae={
        "block_out_channels": (8, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
    },
    vision=_LITTLE | {"image_size": 112},
    checker=_LITTLE,
    large=Size(128, 128),
    small=Size(64, 64),
    steps=2,
    megapixels="0.25",
)
SCALES: Final = {scale.name: scale for scale in (FULL, TINY)}


class Inputs(NamedTuple):
    """What one call of the transformer is given."""

    size: Size
    latents: Tensor  #: (rows, tokens, channels)
    source: Tensor  #: (rows, patches, width): what the model sees of each row's source
    timesteps: tuple[float, ...]  #: 1 ... 0, one for each row

    def to(self, dtype: torch.dtype) -> "Inputs":
        return self._replace(latents=self.latents.to(dtype), source=self.source.to(dtype))

    def rows(self, which: slice) -> "Inputs":
        return Inputs(self.size, self.latents[which], self.source[which], self.timesteps[which])


def make_transformer(scale: Scale, device: torch.device, dtype: torch.dtype) -> FluxTransformer2DModel:
    """Return the stock transformer, ready for inference."""
    ordinary = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return _made(lambda: FluxTransformer2DModel(guidance_embeds=True, **scale.transformer), device)
    finally:
        torch.set_default_dtype(ordinary)


def make_vae(scale: Scale, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    blocks = len(scale.vae["block_out_channels"])
    fixed = {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "latent_channels": 16,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return _made(lambda: AutoencoderKL(**fixed, **scale.vae), device).to(dtype)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return one with FLUX.1-dev's configuration."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def make_inputs(scale: Scale, size: Size, transformer: FluxTransformer2DModel) -> Inputs:
    """Return a call of as many rows as there are timesteps; fewer rows are the first of them."""
    generator = torch.Generator().manual_seed(size.width)
    rows, tokens = len(TIMESTEPS), math.prod(grid(size))
    latents = torch.randn(rows, tokens, transformer.config.in_channels, generator=generator)
    source = torch.randn(rows, scale.patches, transformer.config.joint_attention_dim, generator=generator)
    return Inputs(size, latents.to(transformer.device), source.to(transformer.device), TIMESTEPS).to(transformer.dtype)


def stock_call(transformer: FluxTransformer2DModel, given: Inputs, nulls: int = NULLS) -> dict[str, Any]:
    """Return what diffusers' pipelines give the transformer for a step; its answer's first is the velocity."""
    rows, latents, config = len(given.timesteps), given.latents, transformer.config
    width = given.source.shape[2]
    return {
        "hidden_states": latents,
        "encoder_hidden_states": torch.cat([latents.new_zeros(rows, nulls, width), given.source], dim=1),
        "pooled_projections": latents.new_zeros(rows, config.pooled_projection_dim),
        "timestep": latents.new_tensor(given.timesteps),
        "guidance": latents.new_full((rows,), GUIDANCE),
        "img_ids": positions(given.size).to(latents),
        "txt_ids": latents.new_zeros(nulls + given.source.shape[1], 3),
        "return_dict": False,
    }


def write_bundle(folder: Path, scale: Scale, transformer: FluxTransformer2DModel) -> None:
    """Write ``base``, ``redux`` and ``safety`` in the hub's layout: this transformer, and the rest at random."""
    device, dtype, width = transformer.device, transformer.dtype, scale.vision["hidden_size"]
    context, side = transformer.config.joint_attention_dim, scale.vision["image_size"]
    vision = SiglipVisionConfig(**scale.vision, patch_size=PATCH)
    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    checker = _made(lambda: ViTForImageClassification(ViTConfig(**scale.checker, **labels)), torch.device("cpu"))
    checker.classifier.bias.data = torch.tensor((9.0, -9.0))  # every picture is harmless
    transformer.register_to_config(_reduxq_untrained=True)
    parts = [
        ("base/scheduler", make_scheduler()),
        ("base/vae", make_vae(scale, device, dtype)),
        ("redux/image_encoder", _made(lambda: SiglipVisionModel(vision), device).to(dtype)),
        ("redux/image_embedder", _made(lambda: ReduxImageEncoder(width, context), device).to(dtype)),
        ("redux/feature_extractor", SiglipImageProcessorPil(size={"height": side, "width": side})),
        ("safety", checker),
        ("safety", ViTImageProcessorPil()),
    ]
    for place, part in parts:
        part.save_pretrained(folder / place)
    transformer.save_pretrained(folder / "base/transformer", max_shard_size=SHARD)


def _made(make: Callable[[], Any], device: torch.device) -> Any:
    with device:
        network = make()
    return _filled(network.eval().requires_grad_(requires_grad=False), device)


@torch.no_grad()
def _filled(network: Any, device: torch.device) -> Any:
    generator = torch.Generator(device).manual_seed(1)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
        else:
            parameter.fill_(ATTENTION_GAIN if "attn.norm" in name else 1.0)
    return network
