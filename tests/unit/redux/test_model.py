"""What a model keeps between jobs, and how it gets ready."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from shared.errors import Misconfigured, ModelUnavailable
from shared.ids import AssetKey
from shared.jobs import Parameters
from shared.settings import ModelSettings, WorkerSettings
from shared.sizes import Size
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import finish, load, make_model, recipe, source, start
from worker.__main__ import parse_size
from worker.redux.attention import PROMPT_ROWS, biases
from worker.redux.model import ReduxModel
from worker.redux.weights import Weights

SMALL = recipe([1], size=(64, 64), steps=1)


@pytest.fixture
def looks(weights: Weights) -> Any:
    """Return a list that grows whenever SigLIP looks at a source."""
    seen: list[None] = []
    handle = weights.image_encoder.register_forward_hook(lambda *_: seen.append(None))
    yield seen
    handle.remove()


def test_a_source_is_looked_at_once_however_many_jobs_vary_it(weights: Weights, tmp_path: Path, looks: Any) -> None:
    model = make_model(weights, tmp_path)
    prepared = [model.prepare(source(beach()), recipe([seed], size=(64, 64))) for seed in (1, 2)]
    rows = [row for job in prepared for row in model.begin(job)]
    rows += start(model, beach(), recipe([3, 4], size=(96, 64)))
    assert len(looks) == 1
    assert len({id(row.context) for row in rows}) == 1
    start(model, portrait(), SMALL)
    assert len(looks) == 2


def test_without_room_for_conditions_each_job_looks(weights: Weights, tmp_path: Path, looks: Any) -> None:
    model = make_model(weights, tmp_path, conditions_bytes=0)
    [first], [second] = (finish(model, beach(), SMALL) for _ in range(2))
    assert len(looks) == 2
    assert torch.equal(first.latents, second.latents)


def test_the_last_block_makes_nothing_of_the_context(weights: Weights, tmp_path: Path) -> None:
    model, asked = make_model(weights, tmp_path), list[int]()
    last = weights.transformer.single_transformer_blocks[-1]
    layers = (last.attn.to_q, last.proj_mlp, last.proj_out)
    handles = [layer.register_forward_hook(lambda _, rows, __: asked.append(rows[0].shape[1])) for layer in layers]
    finish(model, beach(), SMALL)
    for handle in handles:
        handle.remove()
    assert asked == [Size(64, 64).tokens] * 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_biases_count_for_all_the_rows_of_the_prompt(dtype: torch.dtype) -> None:
    found = torch.tensor(biases(dtype), dtype=dtype)
    assert found.tolist() == biases(dtype)  # no rounding left to do
    assert float(found.double().exp().sum()) == pytest.approx(PROMPT_ROWS, rel=5e-7 if dtype.itemsize < 8 else 1e-15)
    assert len(found) <= 4


def test_warming_makes_the_usual_tables(weights: Weights, tmp_path: Path) -> None:
    make_model(weights, tmp_path).warm([Size(64, 64), Size(96, 64)], call_tokens=40)
    assert len(list((tmp_path / "modulation").iterdir())) == 2


def test_what_is_asked_for_when_nothing_is_said_is_warm_and_so_are_calls_of_many_rows() -> None:
    warm = [parse_size(text) for text in ModelSettings().warm_sizes]
    usual = Parameters(source=AssetKey("x"), seed=0).size
    assert {usual, Size(1024, 1024)} <= {*warm}
    assert min(size.tokens for size in warm) <= WorkerSettings().call_tokens // 2


def test_a_device_without_room_for_one_picture_is_no_place_for_a_worker(
    model: ReduxModel, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, block = 1, weights.transformer.transformer_blocks[0].norm1

    def scarce(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > most:
            raise torch.OutOfMemoryError
        return rows

    monkeypatch.setattr(block.silu, "forward", scarce)
    model.warm([Size(64, 64)], call_tokens=64)  # the engine will learn how many fit
    most = 0
    with pytest.raises(ModelUnavailable, match="too little memory for 64 x 64"):
        model.warm([Size(64, 64)], call_tokens=64)


@pytest.mark.parametrize("text", ["1024", "1000x1024", "x", "1024x", "-16x16", "1024X1024", "0x16"])
def test_a_size_to_warm_that_is_none_is_named(text: str) -> None:
    with pytest.raises(Misconfigured, match=f"REDUXQ_MODEL__WARM_SIZES: '{text}' is no size"):
        parse_size(text)


def test_a_size_to_warm_is_width_then_height() -> None:
    assert parse_size("1536x640") == Size(1536, 640)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["expanded", "bias"])
def test_compiled_blocks_serve_every_size_and_number_of_rows(bundle: Path, tmp_path: Path, attention: str) -> None:
    """Three traces for one row and three for more: a double block, the first single one, one behind a single one."""
    torch._dynamo.reset()
    counters.clear()
    weights = load(bundle)
    model = make_model(weights, tmp_path, attention=attention)
    weights.transformer.compile_repeated_blocks(backend="eager", fullgraph=True, dynamic=True)
    traces = []
    for size in ((320, 256), (384, 256), (256, 512)):
        for seeds in ([1], [1, 2], [1, 2, 3]):
            finish(model, beach(), recipe(seeds, size=size, steps=2))
            traces.append(counters["stats"]["unique_graphs"])
    assert traces == [3, 6, 6, 6, 6, 6, 6, 6, 6]
