"""diffusers' own pipelines on the same files, as they come."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from shared.jobs import Recipe
from tests.bench.gpu_models import NO_TEXT_ENCODERS
from worker.redux.latents import noise
from worker.redux.weights import Weights


def stock_pipeline(folder: Path, weights: Weights) -> FluxPipeline:
    """Return one with a transformer of its own, for ours has no modulation layers."""
    transformer = FluxTransformer2DModel.from_pretrained(folder / "base" / "transformer", torch_dtype=weights.dtype)
    pipeline = FluxPipeline(transformer=transformer, vae=weights.vae, scheduler=weights.scheduler, **NO_TEXT_ENCODERS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_prior(weights: Weights) -> FluxPriorReduxPipeline:
    return FluxPriorReduxPipeline(
        image_encoder=weights.image_encoder,
        image_embedder=weights.image_embedder,
        feature_extractor=weights.image_processor,
    )


def stock_context(weights: Weights, picture: Image.Image) -> dict[str, Tensor]:
    """Return what the prior would for a model of other widths than those written into it."""
    pixels = weights.image_processor(images=picture, do_convert_rgb=True, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        patches = weights.image_encoder(pixels.to(weights.dtype)).last_hidden_state
        image = weights.image_embedder(patches).image_embeds
    return {
        "prompt_embeds": torch.cat([image.new_zeros(1, 512, image.shape[2]), image], dim=1),
        "pooled_prompt_embeds": image.new_zeros(1, weights.transformer.config.pooled_projection_dim),
    }


def stock_latents(pipeline: FluxPipeline, context: dict[str, Tensor], wish: Recipe) -> Tensor:
    """Return the finished latents of all seeds, packed."""
    dtype = pipeline.transformer.dtype
    drawn: dict[str, Any] = {"generator": [torch.Generator().manual_seed(seed) for seed in wish.seeds]}
    if dtype == torch.float64:  # in which torch draws other numbers from the same seed
        drawn = {"latents": noise(wish.seeds, channels=16, size=wish.size).to(dtype)}
    made: Tensor = pipeline(
        **{name: tensor.expand(len(wish.seeds), *tensor.shape[1:]) for name, tensor in context.items()},
        width=wish.size.width,
        height=wish.size.height,
        num_inference_steps=wish.num_inference_steps,
        guidance_scale=wish.guidance_scale,
        output_type="latent",
        **drawn,
    ).images
    return made


def stock_decoded(pipeline: FluxPipeline, latents: Tensor, wish: Recipe, output: str) -> Any:
    """Return the pictures of finished latents, as ``pt`` tensors (n, 3, height, width) of 0 ... 1 or as ``pil``."""
    config = pipeline.vae.config
    with torch.inference_mode():
        cells = pipeline._unpack_latents(latents, wish.size.height, wish.size.width, pipeline.vae_scale_factor)
        decoded = pipeline.vae.decode(cells / config.scaling_factor + config.shift_factor, return_dict=False)[0]
        return pipeline.image_processor.postprocess(decoded, output_type=output)
