"""What makes a picture: the source, the seed, nothing else."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from torch import Tensor

from shared.errors import ModelFailed
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import difference, finish, load, recipe
from worker.redux.model import ReduxModel

CLEARLY = 0.2  #: relative L2 distance of latents below which a mix-up might go unnoticed
BATCH_TOLERANCE = 1e-5  #: float32, where a batch adds in another order than a single row


@pytest.mark.parametrize("steps", [1, 8])
def test_another_source_makes_clearly_other_latents(model: ReduxModel, condition: Tensor, steps: int) -> None:
    ours = finish(model, condition, [1], steps=steps)
    other = finish(model, model.condition(portrait()), [1], steps=steps)
    assert difference(ours.latents, other.latents) > CLEARLY


def test_plain_colours_make_clearly_different_latents(model: ReduxModel) -> None:
    red, blue = (model.condition(Image.new("RGB", (64, 64), colour)) for colour in ("firebrick", "royalblue"))
    assert difference(finish(model, red, [1]).latents, finish(model, blue, [1]).latents) > CLEARLY


def test_another_seed_makes_clearly_other_latents(model: ReduxModel, condition: Tensor) -> None:
    first, second = finish(model, condition, [1, 2]).latents
    assert difference(first, second) > CLEARLY


def test_another_guidance_scale_makes_other_latents(model: ReduxModel, condition: Tensor) -> None:
    weak, strong = (finish(model, condition, [1], guidance_scale=scale).latents for scale in (1.0, 6.0))
    assert difference(weak, strong) > 100 * BATCH_TOLERANCE


def test_the_same_seed_makes_the_same_picture_twice(model: ReduxModel, condition: Tensor) -> None:
    first, second = (finish(model, condition, [5]) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert model.decode(first)[0].tobytes() == model.decode(second)[0].tobytes()


def test_a_row_in_a_batch_equals_its_seed_alone(model: ReduxModel, condition: Tensor) -> None:
    together = finish(model, condition, [11, 12, 13, 14]).latents
    for row, seed in enumerate([11, 12, 13, 14]):
        alone = finish(model, condition, [seed]).latents
        assert difference(together[row], alone[0]) < BATCH_TOLERANCE


def test_jobs_that_take_turns_do_not_disturb_each_other(model: ReduxModel, condition: Tensor) -> None:
    """Other size, other number of steps, interleaved: nothing of a job lives in the model."""
    alone = finish(model, condition, [1], steps=4).latents
    ours = model.begin(condition, recipe([1]))
    other = model.begin(model.condition(portrait()), recipe([2], size=(256, 256), steps=6, guidance_scale=5.0))
    for _ in range(4):
        model.advance(ours)
        model.advance(other)
    assert torch.equal(ours.latents, alone)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_smallest_seed_and_the_largest_work(model: ReduxModel, condition: Tensor, seed: int) -> None:
    assert finish(model, condition, [seed], steps=1).latents.isfinite().all()


def test_a_denoising_counts_its_steps(model: ReduxModel, condition: Tensor) -> None:
    denoising = model.begin(condition, recipe([1], steps=2))
    assert (denoising.step, denoising.steps, denoising.finished) == (0, 2, False)
    model.advance(denoising)
    assert (denoising.step, denoising.steps, denoising.finished) == (1, 2, False)
    model.advance(denoising)
    assert (denoising.step, denoising.steps, denoising.finished) == (2, 2, True)
    with pytest.raises(IndexError):
        model.advance(denoising)


@pytest.mark.parametrize("size", [(1536, 640), (320, 768), (576, 448)])
def test_pictures_have_the_size_that_was_asked_for(model: ReduxModel, condition: Tensor, size: tuple[int, int]) -> None:
    pictures = model.decode(finish(model, condition, [1, 2], size=size, steps=1))
    assert [(picture.size, picture.mode) for picture in pictures] == [(size, "RGB")] * 2


def test_the_tiny_models_pictures_are_colourful_yet_not_burnt_out(model: ReduxModel, condition: Tensor) -> None:
    (picture,) = model.decode(finish(model, condition, [1], size=(576, 448), steps=8))
    statistics = ImageStat.Stat(picture)
    assert all(90 < middle < 165 for middle in statistics.mean)
    assert all(20 < spread < 90 for spread in statistics.stddev)
    assert difference(*(torch.tensor(list(band.tobytes()), dtype=torch.float32) for band in picture.split()[::2])) > 0.2


@pytest.mark.parametrize(("width", "height"), [(0, 256), (264, 256), (256, 250), (8, 8)])
def test_a_side_that_is_no_multiple_of_16_is_refused(
    model: ReduxModel, condition: Tensor, width: int, height: int
) -> None:
    with pytest.raises(ValueError, match=f"multiples of 16, not {width} x {height}"):
        model.begin(condition, recipe([1], size=(width, height)))


def test_bfloat16_makes_finite_pictures_that_follow_their_source(bundle: Path) -> None:
    half = ReduxModel(load(bundle, dtype="bfloat16"))
    conditions = [half.condition(source) for source in (beach(), portrait())]
    ours, other = (finish(half, condition, [1]) for condition in conditions)
    assert conditions[0].dtype == torch.bfloat16
    assert ours.latents.dtype == torch.float32
    assert difference(ours.latents, other.latents) > CLEARLY
    assert half.decode(ours)[0].size == (320, 256)


def test_numbers_that_are_not_finite_never_become_a_picture(model: ReduxModel, condition: Tensor) -> None:
    denoising = finish(model, condition, [1], steps=1)
    denoising.latents = torch.full_like(denoising.latents, float("nan"))
    with pytest.raises(ModelFailed, match="not finite"):
        model.decode(denoising)
