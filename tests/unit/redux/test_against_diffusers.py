"""diffusers' own pipelines are the reference: same weights, same seeds, same pictures."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import FluxPipeline, FluxPriorReduxPipeline
from PIL import Image, ImageChops, ImageStat
from torch import Tensor

from shared.jobs import Recipe
from tests.bench.gpu_models import NO_TEXT_ENCODERS
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import difference, finish, load, make_model, recipe, source, start
from tests.unit.redux.stock import (
    stock_context,
    stock_decoded,
    stock_latents,
    stock_pipeline,
    stock_prior,
)
from tests.unit.redux.wide import write_wide
from worker.redux import decode
from worker.redux.denoise import Trajectory
from worker.redux.model import ReduxModel
from worker.redux.weights import Weights

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}  #: relative, of whole trajectories
BFLOAT16_TOLERANCE = 5e-3  #: one rounding of the latents, which we keep in float32


class Job(NamedTuple):
    """What is asked of both, and when ours joins the others."""

    joins: int  #: calls of the model before
    picture: Image.Image
    recipe: Recipe


BEACH, PORTRAIT = beach(), portrait()
JOBS = [
    Job(0, BEACH, recipe([7, 8], size=(256, 192), steps=4, guidance_scale=2.5)),
    Job(0, PORTRAIT, recipe([2**32 - 1], size=(160, 256), steps=3, guidance_scale=1.0)),
    Job(1, PORTRAIT, recipe([7], size=(256, 192), steps=8, guidance_scale=5.3)),
    Job(2, BEACH, recipe([0], size=(160, 256), steps=1)),
    Job(3, BEACH, recipe([3], size=(256, 192), steps=2)),
]


class Wide(NamedTuple):
    """The model of diffusers' widths in one dtype, and what diffusers makes of each job."""

    weights: Weights
    latents: list[Tensor]
    decoded: list[Tensor]


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    write_wide(folder)
    return folder


@pytest.fixture(scope="module", params=["float64", "float32"])
def wide(request: pytest.FixtureRequest, wide_bundle: Path) -> Wide:
    weights = load(wide_bundle, precision=request.param)
    prior, pipeline = stock_prior(weights), stock_pipeline(wide_bundle, weights)
    seen = {id(picture): dict(prior(picture)) for picture in (BEACH, PORTRAIT)}
    latents = [stock_latents(pipeline, seen[id(job.picture)], job.recipe) for job in JOBS]
    shown = [stock_decoded(pipeline, made, job.recipe, "pt") for made, job in zip(latents, JOBS, strict=True)]
    return Wide(weights, latents, shown)


def run_together(model: ReduxModel, jobs: list[Job]) -> list[list[Trajectory]]:
    """Run the jobs as an engine would, rows of one size in one call, each joining when it is its time."""
    begun: dict[int, list[Trajectory]] = {}
    call = 0
    while len(begun) < len(jobs) or any(row.step < row.steps for rows in begun.values() for row in rows):
        for place, job in enumerate(jobs):
            if job.joins <= call and place not in begun:
                begun[place] = start(model, job.picture, job.recipe)
        going = [row for rows in begun.values() for row in rows if row.step < row.steps]
        for size in {row.size for row in going}:
            model.advance([row for row in going if row.size == size])
        call += 1
    return [begun[place] for place in range(len(jobs))]


@pytest.mark.parametrize("attention", ["expanded", "bias"])
def test_whole_trajectories_of_all_kinds_together_equal_the_stock_pipelines(
    wide: Wide, attention: str, tmp_path: Path
) -> None:
    """Mixed sources, sizes, steps, guidance and seeds, with joins: equal to prior and pipeline, job after job."""
    tolerance = TOLERANCES[wide.weights.dtype]
    made = run_together(make_model(wide.weights, tmp_path, attention=attention), JOBS)
    for rows, latents, decoded in zip(made, wide.latents, wide.decoded, strict=True):
        assert difference(latents, torch.stack([row.latents for row in rows])) < tolerance
        with torch.inference_mode():
            ours = torch.stack([decode.colours(wide.weights, row) for row in rows])
        assert difference(decoded, (ours / 2 + 0.5).clamp(0, 1)) < tolerance


@pytest.fixture(scope="module")
def pipeline(bundle: Path, weights: Weights) -> FluxPipeline:
    return stock_pipeline(bundle, weights)


@pytest.mark.parametrize(
    "wish",
    [
        recipe([7, 8, 9], guidance_scale=2.5),
        recipe([0], size=(576, 448), steps=8),
        recipe([2**32 - 1, 0], size=(320, 768), steps=2),
        recipe([3], size=(1536, 640), steps=1),
        recipe([5], size=(64, 64), steps=50),
    ],
    ids=str,
)
def test_the_loop_equals_the_stock_pipelines(
    model: ReduxModel, weights: Weights, pipeline: FluxPipeline, wish: Recipe
) -> None:
    theirs = stock_latents(pipeline, stock_context(weights, beach()), wish)
    ours = torch.stack([row.latents for row in finish(model, beach(), wish)])
    assert difference(theirs, ours) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("attention", ["expanded", "bias"])
def test_a_step_in_bfloat16_equals_the_stock_pipelines(bundle: Path, tmp_path: Path, attention: str) -> None:
    """Only one, for the stock pipeline rounds its latents after each; timestep, guidance must be rounded as there."""
    weights, wish = load(bundle, precision="bfloat16"), recipe([7], steps=1, guidance_scale=2.5)
    [ours] = finish(make_model(weights, tmp_path, attention=attention), beach(), wish)
    [theirs] = stock_latents(stock_pipeline(bundle, weights), stock_context(weights, beach()), wish)
    assert theirs.dtype == torch.bfloat16
    assert difference(theirs.float(), ours.latents) < BFLOAT16_TOLERANCE


def test_the_pictures_equal_the_stock_pipelines(model: ReduxModel, weights: Weights, pipeline: FluxPipeline) -> None:
    wish = recipe([1, 2], steps=2)
    theirs = stock_decoded(pipeline, stock_latents(pipeline, stock_context(weights, beach()), wish), wish, "pil")
    for row, other in zip(finish(model, beach(), wish), theirs, strict=True):
        furthest = ImageStat.Stat(ImageChops.difference(model.decode(row)(), other)).extrema
        assert all(levels <= 1 for _, levels in furthest)


def test_a_source_of_any_mode_is_conditioned_like_its_rgb(model: ReduxModel) -> None:
    palette = beach().quantize(64)
    ours, other = (model.prepare(source(picture), recipe([1])) for picture in (palette, palette.convert("RGB")))
    with torch.inference_mode():
        assert torch.equal(ours.condition(), other.condition())


def test_the_stock_pipelines_load_the_tiny_model(copy: Path, weights: Weights) -> None:
    """With the index of parts that the hub has beside them and that the worker never reads."""
    stock_pipeline(copy, weights).save_config(copy / "base")
    stock_prior(weights).save_config(copy / "redux")
    base = FluxPipeline.from_pretrained(copy / "base", **NO_TEXT_ENCODERS)
    redux = FluxPriorReduxPipeline.from_pretrained(copy / "redux")
    assert redux.image_embedder.config.txt_in_features == base.transformer.config.joint_attention_dim
