"""What makes a picture: the source, the seed, nothing else."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat

from shared.errors import ModelFailed
from shared.jobs import OutputFormat
from tests.samples import alike, opened
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import difference, finish, load, make_model, recipe, source, start
from worker.encoding import encode
from worker.redux.model import ReduxModel
from worker.work import OutOfMemory

CLEARLY = 0.2  #: relative L2 distance of latents below which a mix-up might go unnoticed
BATCH_TOLERANCE = 1e-5  #: float32, where a batch adds in another order than a single row


@pytest.mark.parametrize("steps", [1, 8])
def test_another_source_makes_clearly_other_latents(model: ReduxModel, steps: int) -> None:
    [ours], [other] = (finish(model, picture, recipe([1], steps=steps)) for picture in (beach(), portrait()))
    assert difference(ours.latents, other.latents) > CLEARLY


def test_plain_colours_make_clearly_different_latents(model: ReduxModel) -> None:
    plain = (Image.new("RGB", (64, 64), colour) for colour in ("firebrick", "royalblue"))
    [red], [blue] = (finish(model, picture, recipe([1])) for picture in plain)
    assert difference(red.latents, blue.latents) > CLEARLY


def test_another_seed_makes_clearly_other_latents(model: ReduxModel) -> None:
    first, second = finish(model, beach(), recipe([1, 2]))
    assert difference(first.latents, second.latents) > CLEARLY


def test_another_guidance_scale_makes_other_latents(model: ReduxModel) -> None:
    [weak], [strong] = (finish(model, beach(), recipe([1], guidance_scale=scale)) for scale in (1.0, 6.0))
    assert difference(weak.latents, strong.latents) > 100 * BATCH_TOLERANCE


def test_the_same_seed_makes_the_same_picture_twice(model: ReduxModel) -> None:
    [first], [second] = (finish(model, beach(), recipe([5])) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert model.decode(first)().tobytes() == model.decode(second)().tobytes()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_png_of_a_job_alone_equals_the_one_made_among_neighbours(
    bundle: Path, tmp_path: Path, precision: str
) -> None:
    model = make_model(load(bundle, precision=precision), tmp_path)
    wish = recipe([11], size=(256, 256), steps=6, guidance_scale=2.0)
    [alone] = finish(model, beach(), wish)
    [ours] = start(model, beach(), wish)
    others = [
        *start(model, portrait(), recipe([12, 13], size=(256, 256), steps=6)),
        *start(model, beach(), recipe([14], size=(256, 256), steps=8, guidance_scale=5.0)),
    ]
    for step in range(wish.num_inference_steps):
        model.advance([*others[: step % 4], ours, *others[step % 4 :]])
    files = [encode(model.decode(row)(), OutputFormat.PNG, 80) for row in (alone, ours)]
    one, other = map(opened, files)
    assert alike([one], [other]) >= 0.999


def test_jobs_that_take_turns_do_not_disturb_each_other(model: ReduxModel) -> None:
    """Other size, other number of steps, interleaved: nothing of a job lives in the model."""
    [alone] = finish(model, beach(), recipe([1], steps=4))
    ours = start(model, beach(), recipe([1]))
    other = start(model, portrait(), recipe([2], size=(256, 256), steps=6, guidance_scale=5.0))
    for _ in range(4):
        model.advance(ours)
        model.advance(other)
    assert torch.equal(ours[0].latents, alone.latents)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_smallest_seed_and_the_largest_work(model: ReduxModel, seed: int) -> None:
    [row] = finish(model, beach(), recipe([seed], steps=1))
    assert row.latents.isfinite().all()


def test_a_trajectory_counts_its_steps_and_has_no_more(model: ReduxModel) -> None:
    fresh, row = (start(model, beach(), recipe([seed], steps=2))[0] for seed in (1, 2))
    for step in range(2):
        assert (row.step, row.steps) == (step, 2)
        model.advance([row])
    with pytest.raises(IndexError):
        model.advance([fresh, row])
    assert (fresh.step, row.step) == (0, 2)


def test_a_call_that_does_not_fit_changes_nothing_and_keeps_nothing_alive(
    model: ReduxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = start(model, beach(), recipe([1, 2], size=(64, 64), steps=2))
    before = [row.latents for row in rows]
    network = model._weights.transformer

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as scarce:
        scarce.setattr(network.proj_out, "forward", full)
        with pytest.raises(OutOfMemory) as caught:
            model.advance(rows)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)  # whose frames hold the call's tensors
    assert [row.step for row in rows] == [0, 0]
    assert all(row.latents is latents for row, latents in zip(rows, before, strict=True))


@pytest.mark.parametrize("size", [(1536, 640), (320, 768), (576, 448)])
def test_pictures_have_the_size_that_was_asked_for(model: ReduxModel, size: tuple[int, int]) -> None:
    [row] = finish(model, beach(), recipe([1], size=size, steps=1))
    picture = model.decode(row)()
    assert (picture.size, picture.mode) == (size, "RGB")


def test_the_tiny_models_pictures_are_colourful_yet_not_burnt_out(model: ReduxModel) -> None:
    [row] = finish(model, beach(), recipe([1], size=(576, 448), steps=8))
    picture = model.decode(row)()
    statistics = ImageStat.Stat(picture)
    assert all(90 < middle < 165 for middle in statistics.mean)
    assert all(20 < spread < 90 for spread in statistics.stddev)
    assert difference(*(torch.tensor(list(band.tobytes()), dtype=torch.float32) for band in picture.split()[::2])) > 0.2


@pytest.mark.parametrize(("width", "height"), [(0, 256), (264, 256), (256, 250), (8, 8)])
def test_a_side_that_is_no_multiple_of_16_is_refused(model: ReduxModel, width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 16, not {width} x {height}"):
        model.prepare(source(beach()), recipe([1], size=(width, height)))


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_fewer_bits_make_finite_pictures_that_follow_their_source(bundle: Path, tmp_path: Path, precision: str) -> None:
    model = make_model(load(bundle, precision=precision), tmp_path)
    [ours], [other] = (finish(model, picture, recipe([1])) for picture in (beach(), portrait()))
    assert ours.latents.dtype == torch.float32
    assert difference(ours.latents, other.latents) > CLEARLY
    assert model.decode(ours)().size == (320, 256)


def test_numbers_that_are_not_finite_never_become_a_picture(model: ReduxModel) -> None:
    [row] = finish(model, beach(), recipe([1], size=(64, 64), steps=1))
    row.latents = torch.full_like(row.latents, torch.nan)
    decoding = model.decode(row)
    with pytest.raises(ModelFailed, match="not finite"):
        decoding()
