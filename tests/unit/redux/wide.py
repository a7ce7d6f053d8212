"""A small random model with the widths that diffusers' prior has written into it: context 4096, pooled prompt 768."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

from worker.redux import tiny

PIXELS = 56  #: one side of what SigLIP sees: 16 patches, for the rows of the absent prompt are what counts


def write_wide(folder: Path) -> None:
    """Write it as the tiny model, in bfloat16, whose numbers every wider type has too."""
    generator = torch.Generator().manual_seed(2)
    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    siglip = SiglipVisionModel(SiglipVisionConfig(**tiny._VISION, image_size=PIXELS, patch_size=14))
    embedder = ReduxImageEncoder(redux_dim=tiny._IMAGE_WIDTH, txt_in_features=4096)
    networks = {
        "base/transformer": transformer,
        "base/vae": tiny._vae(),
        "redux/image_encoder": siglip,
        "redux/image_embedder": embedder,
    }
    for place, network in networks.items():
        tiny._filled(network, generator).to(torch.bfloat16).save_pretrained(folder / place)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    scheduler.save_pretrained(folder / "base/scheduler")
    SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(
        folder / "redux/feature_extractor"
    )
