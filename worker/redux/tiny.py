"""A tiny model of random weights, of the same classes in the same folders as the real one.

It runs every path of the worker on a CPU within seconds. Its pictures are noise, but noise that depends on the source
as much as on the seed, so that a worker that mixes those up is found out.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel, ViTConfig, ViTForImageClassification
from transformers.models.siglip import SiglipImageProcessorPil
from transformers.models.vit import ViTImageProcessorPil

from shared.errors import Misconfigured
from worker.redux.weights import UNTRAINED

_IMAGE_PIXELS: Final = 384  #: one side of what SigLIP sees; 27 x 27 patches as in FLUX.1 Redux
_IMAGE_WIDTH: Final = 32  #: SigLIP's hidden size; FLUX.1 Redux: 1152
_CONTEXT_WIDTH: Final = 64  #: FLUX.1: 4096
_LATENT_CHANNELS: Final = 16  #: as FLUX.1

#: SigLIP's sizes and the safety checker's.
_VISION: Final = {
    "hidden_size": _IMAGE_WIDTH,
    "intermediate_size": 2 * _IMAGE_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}

_WEIGHT_SEED: Final = 1  #: of the seeds tried, one with which sources differ much

#: How much larger than one over the root of its inputs a weight is, and how large a bias, by a part of its name.
#: With 1 for all, attention averages the source away: exchanging it changed the latents by 10 %.
_GAINS: Final[Mapping[str, float]] = {
    "patch_embedding.weight": 4,
    "patch_embedding.bias": 0.7,
    "position_embedding": 0.3,
    "redux_up.weight": 3,
    "redux_up.bias": 0.5,
    "redux_down.weight": 3,
    "context_embedder.weight": 6,
    "context_embedder.bias": 1,
    "x_embedder.weight": 0.5,
    "attn.norm": 3,
    "attn.to_q.bias": 2,
    "attn.add_v_proj.weight": 8,
    "attn.to_out": 4,
    "self_attn.v_proj.weight": 2,
    "linear.bias": 1,
    "decoder.conv_out.weight": 0.35,
    "decoder.conv_out.bias": 0,
    "proj_out.weight": 2,
    "classifier.weight": 0.25,
}
_WEIGHT_GAIN: Final = 1.0
_BIAS_GAIN: Final = 0.1

#: What the safety checker's classes, normal and nsfw, start with: so far apart that no picture's weights bridge it.
_PRESUMPTION: Final = (1.5, -1.5)


def write_tiny(folder: Path) -> None:
    """Write ``base``, ``redux`` and ``safety``, laid out as the hub's repositories; the same bytes every time.

    Takes about a second. The folder appears complete or not at all; an older tiny model there is replaced.

    Raises:
        Misconfigured: If something else stands there.
    """
    if folder.exists() and not _replaceable(folder):
        raise Misconfigured(f"{folder} holds something other than a tiny model; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".tiny-", dir=folder.parent) as scratch:
        fresh = Path(scratch, "fresh")
        _write(fresh)
        if folder.exists():
            folder.rename(Path(scratch, "stale"))
        fresh.rename(folder)


def _replaceable(folder: Path) -> bool:
    config = folder / "base" / "transformer" / "config.json"
    return (config.is_file() and UNTRAINED in config.read_text()) or (folder.is_dir() and not any(folder.iterdir()))


def _write(folder: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    generator = torch.Generator().manual_seed(_WEIGHT_SEED)
    transformer = _filled(_transformer(), generator)
    transformer.register_to_config(**{UNTRAINED: True})
    siglip = SiglipVisionModel(SiglipVisionConfig(**_VISION, image_size=_IMAGE_PIXELS, patch_size=14))
    embedder = ReduxImageEncoder(redux_dim=_IMAGE_WIDTH, txt_in_features=_CONTEXT_WIDTH)
    parts = [
        ("base/transformer", transformer),
        ("base/vae", _filled(_vae(), generator)),
        ("base/scheduler", FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)),  # as FLUX.1-dev's
        ("redux/image_encoder", _filled(siglip, generator)),
        ("redux/image_embedder", _filled(embedder, generator)),
        ("redux/feature_extractor", SiglipImageProcessorPil(size={"height": _IMAGE_PIXELS, "width": _IMAGE_PIXELS})),
        ("safety", _safety_checker(generator)),
        ("safety", ViTImageProcessorPil()),
    ]
    for place, part in parts:
        part.save_pretrained(folder / place)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors keeps them from other users, of whom a container's may be one


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * _LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_CONTEXT_WIDTH,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def _vae() -> AutoencoderKL:
    widths = (8, 16, 16, 16)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,  # at 1 MP it would take longer than all the rest
    )


def _safety_checker(generator: torch.Generator) -> ViTForImageClassification:
    """Return one that finds every picture harmless, though not equally so."""
    config = ViTConfig(**_VISION, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1})
    network = _filled(ViTForImageClassification(config), generator)
    network.classifier.bias.data = torch.tensor(_PRESUMPTION)
    return network


@torch.no_grad()
def _filled(network: Any, generator: torch.Generator) -> Any:
    for name, parameter in sorted(network.named_parameters()):
        parameter.copy_(_values(name, parameter.shape, generator))
    return network


def _values(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    given = next((gain for part, gain in _GAINS.items() if part in name), None)
    if "norm" in name and len(shape) == 1 and "linear" not in name:
        return torch.full(shape, 0.0 if name.endswith("bias") else given or 1.0)
    if len(shape) == 1:
        return torch.randn(shape, generator=generator) * (_BIAS_GAIN if given is None else given)
    spread = (_WEIGHT_GAIN if given is None else given) / math.sqrt(math.prod(shape[1:]))
    return _smooth(name, torch.randn(shape, generator=generator) * spread)


def _smooth(name: str, weight: Tensor) -> Tensor:
    """Make clouds of what would be a television's snow."""
    if name == "proj_out.weight":
        return weight[::4].repeat_interleave(4, dim=0)  # a token's four cells alike
    if weight.shape[2:] == (3, 3):
        weight = weight[..., :1, :1].expand_as(weight)  # every convolution of the VAE blurs
    if name == "decoder.conv_out.weight":
        weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)  # medium grey on average
    return weight


def main() -> None:
    """Write the tiny model into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write a tiny random model, laid out as FLUX.1 Redux.")
    parser.add_argument("folder", type=Path, help="becomes FOLDER/base, FOLDER/redux and FOLDER/safety")
    try:
        write_tiny(parser.parse_args().folder)
    except Misconfigured as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
