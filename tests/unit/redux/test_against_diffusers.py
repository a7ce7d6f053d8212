"""diffusers' own pipelines are the reference: same weights, same seeds, same pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import ImageChops, ImageStat
from torch import Tensor

from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import difference, finish, load
from worker.redux import conditioning
from worker.redux.model import ReduxModel
from worker.redux.weights import Weights

FLOAT32_TOLERANCE = 1e-5
BFLOAT16_TOLERANCE = 5e-3  #: one rounding of the latents, which we keep in float32
NO_TEXT_ENCODERS = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))


class Wish(NamedTuple):
    """What is asked of both."""

    size: tuple[int, int]
    steps: int
    seeds: list[int]


def run(pipeline: FluxPipeline, condition: Tensor, wish: Wish, output: str) -> Any:
    """Return what the stock pipeline makes of the condition: latents or pictures."""
    return pipeline(
        prompt_embeds=condition.expand(len(wish.seeds), -1, -1),
        pooled_prompt_embeds=condition.new_zeros(len(wish.seeds), pipeline.transformer.config.pooled_projection_dim),
        width=wish.size[0],
        height=wish.size[1],
        num_inference_steps=wish.steps,
        guidance_scale=2.5,
        generator=[torch.Generator().manual_seed(seed) for seed in wish.seeds],
        output_type=output,
    ).images


def stock(weights: Weights) -> FluxPipeline:
    pipeline = FluxPipeline(
        transformer=weights.transformer, vae=weights.vae, scheduler=weights.scheduler, **NO_TEXT_ENCODERS
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_prior(weights: Weights) -> FluxPriorReduxPipeline:
    return FluxPriorReduxPipeline(
        image_encoder=weights.image_encoder,
        image_embedder=weights.image_embedder,
        feature_extractor=weights.image_processor,
    )


@pytest.fixture(scope="module")
def pipeline(weights: Weights) -> FluxPipeline:
    return stock(weights)


@pytest.mark.parametrize(
    "wish",
    [
        Wish((320, 256), 4, [7, 8, 9]),
        Wish((576, 448), 8, [0]),
        Wish((320, 768), 2, [2**32 - 1, 0]),
        Wish((1536, 640), 1, [3]),
        Wish((256, 256), 50, [5]),
    ],
    ids=str,
)
def test_the_loop_equals_the_stock_pipelines(
    model: ReduxModel, pipeline: FluxPipeline, condition: Tensor, wish: Wish
) -> None:
    ours = finish(model, condition, wish.seeds, size=wish.size, steps=wish.steps, guidance_scale=2.5)
    assert difference(ours.latents, run(pipeline, condition, wish, "latent")) < FLOAT32_TOLERANCE


def test_a_step_in_bfloat16_equals_the_stock_pipelines(bundle: Path) -> None:
    """Only one, for the stock pipeline rounds its latents after each; timestep, guidance must be rounded as there."""
    weights = load(bundle, dtype="bfloat16")
    model, wish = ReduxModel(weights), Wish((320, 256), 1, [7])
    condition = model.condition(beach())
    ours = finish(model, condition, wish.seeds, size=wish.size, steps=wish.steps, guidance_scale=2.5)
    theirs = run(stock(weights), condition, wish, "latent")
    assert theirs.dtype == torch.bfloat16
    assert difference(ours.latents, theirs.float()) < BFLOAT16_TOLERANCE


def test_the_pictures_equal_the_stock_pipelines(model: ReduxModel, pipeline: FluxPipeline, condition: Tensor) -> None:
    wish = Wish((320, 256), 2, [1, 2])
    ours = model.decode(finish(model, condition, wish.seeds, size=wish.size, steps=wish.steps, guidance_scale=2.5))
    for one, other in zip(ours, run(pipeline, condition, wish, "pil"), strict=True):
        furthest = ImageStat.Stat(ImageChops.difference(one, other)).extrema
        assert all(levels <= 1 for _, levels in furthest)


def test_the_condition_equals_the_stock_priors(weights: Weights) -> None:
    """At the real context width, because the stock prior has 4096 and 768 written into it."""
    embedder = ReduxImageEncoder(redux_dim=weights.image_embedder.config.redux_dim, txt_in_features=4096)
    wide = replace(weights, image_embedder=embedder.eval())
    theirs = stock_prior(wide)(portrait())
    with torch.inference_mode():
        ours = conditioning.condition(wide, portrait())
    assert ours.shape == (1, 512 + 729, 4096)
    assert torch.equal(ours, theirs.prompt_embeds)
    assert not theirs.pooled_prompt_embeds.any()


def test_a_source_of_any_mode_is_conditioned_like_its_rgb(model: ReduxModel) -> None:
    palette = beach().quantize(64)
    assert torch.equal(model.condition(palette), model.condition(palette.convert("RGB")))


def test_the_stock_pipelines_load_the_tiny_model(copy: Path, weights: Weights) -> None:
    """With the index of parts that the hub has beside them and that the worker never reads."""
    stock(weights).save_config(copy / "base")
    stock_prior(weights).save_config(copy / "redux")
    base = FluxPipeline.from_pretrained(copy / "base", **NO_TEXT_ENCODERS)
    redux = FluxPriorReduxPipeline.from_pretrained(copy / "redux")
    assert redux.image_embedder.config.txt_in_features == base.transformer.config.joint_attention_dim
