"""The tables hold what the stock layers compute, come back from the disk, and are never trusted unseen."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unit.redux.pictures import beach
from tests.unit.redux.running import load, recipe
from tests.unit.redux.stock import stock_context, stock_latents, stock_pipeline
from worker import metrics
from worker.redux import tables
from worker.redux.device import Device
from worker.redux.modulation import Modulation
from worker.redux.schedule import make_schedule
from worker.redux.tables import Tables
from worker.redux.weights import Weights

TIMESTEPS = (1000.0, 700.0, 300.0)
LAYERS = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear", "time_text_embed")


@dataclass
class Counted:
    """A modulation that knows how often it had to compute."""

    modulation: Modulation
    computed: list[Sequence[float]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.modulation, name)

    def table(self, timesteps: Sequence[float], guidance_scale: float) -> Tensor:
        self.computed.append(timesteps)
        return self.modulation.table(timesteps, guidance_scale)


@pytest.fixture
def counted(weights: Weights) -> Any:
    return Counted(weights.modulation)


def make_tables(counted: Any, folder: Path) -> Tables:
    """Return tables as a worker that has just started has them."""
    return Tables(counted, Device(torch.device("cpu")), folder)


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16", "float16"])
def test_a_table_is_to_the_bit_what_the_stock_layers_compute_in_the_stock_pipeline(
    bundle: Path, precision: str
) -> None:
    weights, wish = load(bundle, precision=precision), recipe([1], size=(64, 64), steps=12, guidance_scale=3.3)
    pipeline, heard = stock_pipeline(bundle, weights), dict[str, list[Tensor]]()

    def hear(name: str, _layer: Any, _given: Any, made: Tensor) -> None:
        heard.setdefault(name, []).append(made)

    layers = [name for name, _ in pipeline.transformer.named_modules() if name.endswith(LAYERS[:-1])]
    for name in layers:
        pipeline.transformer.get_submodule(name).register_forward_hook(partial(hear, name))
    stock_latents(pipeline, stock_context(weights, beach()), wish)
    stock = torch.cat([torch.cat(heard[name]) for name in layers], dim=1)
    with torch.inference_mode():
        table = weights.modulation.table(make_schedule(weights.scheduler, 12, 16).timesteps, 3.3)
    assert table.dtype == weights.dtype
    assert torch.equal(table, stock)


def test_no_modulation_layer_is_ever_loaded(bundle: Path, weights: Weights) -> None:
    stock = FluxTransformer2DModel.from_pretrained(bundle / "base" / "transformer")
    theirs, ours = (dict(network.named_parameters()) for network in (stock, weights.transformer))
    left_out = {name for name in theirs if any(layer in name for layer in LAYERS)}
    assert ours.keys() == theirs.keys() - left_out
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert all(tensor.is_meta for tensor in weights.modulation._embedder.parameters())
    assert sum(theirs[name].numel() for name in left_out) > 0.2 * sum(tensor.numel() for tensor in theirs.values())


def test_a_table_outlives_the_worker(counted: Any, tmp_path: Path) -> None:
    told = [metrics.TABLES.labels(where) for where in ("miss", "disk", "hit")]
    before = [each._value.get() for each in told]
    first = make_tables(counted, tmp_path / "new" / "folder").get(TIMESTEPS, 3.0)
    again = make_tables(counted, tmp_path / "new" / "folder")
    assert all(torch.equal(first, again.get(TIMESTEPS, 3.0)) for _ in range(3))
    assert len(counted.computed) == 1
    assert [each._value.get() - was for each, was in zip(told, before, strict=True)] == [1, 1, 2]


def test_steps_and_guidance_have_tables_of_their_own(counted: Any, tmp_path: Path) -> None:
    kept = make_tables(counted, tmp_path)
    wishes = [(TIMESTEPS, 3.0), (TIMESTEPS, 3.5), (TIMESTEPS[:2], 3.0)]
    made = [kept.get(*wish) for wish in (*wishes, *wishes)]
    assert len(counted.computed) == len(wishes)
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[3])


@pytest.mark.parametrize("tear", ["cut", "flip", "empty", "pickle", "other"])
def test_a_file_that_is_not_what_was_written_is_computed_again(counted: Any, tmp_path: Path, tear: str) -> None:
    table = make_tables(counted, tmp_path).get(TIMESTEPS, 3.0)
    [path] = tmp_path.iterdir()
    data = path.read_bytes()
    other = Tables(counted, Device(torch.device("cpu")), tmp_path / "other")
    other.get(TIMESTEPS, 5.0)
    [foreign] = (tmp_path / "other").iterdir()
    torn = {
        "cut": data[:-100],
        "flip": data[:-1] + bytes([data[-1] ^ 1]),
        "empty": b"",
        "pickle": pickle.dumps(table.tolist()),
        "other": foreign.read_bytes(),
    }
    foreign.unlink()
    foreign.parent.rmdir()
    path.write_bytes(torn[tear])
    again = make_tables(counted, tmp_path).get(TIMESTEPS, 3.0)
    assert torch.equal(again, table)
    assert len(counted.computed) == 3
    assert path.read_bytes() == data  # mended


@pytest.mark.parametrize("name", ["norm_out.linear.weight", "time_text_embed.timestep_embedder.linear_2.weight"])
def test_other_weights_have_tables_of_their_own_though_the_files_look_alike(copy: Path, name: str) -> None:
    path = copy / "base" / "transformer" / "diffusion_pytorch_model.safetensors"
    before, stat = load(copy).modulation.fingerprint(), path.stat()
    tensors = load_file(path)
    tensors[name] *= 1.01  # as when something small is merged into them
    save_file(tensors, path, {"format": "pt"})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert load(copy).modulation.fingerprint() != before


def test_a_folder_that_cannot_be_written_is_done_without(counted: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = make_tables(counted, tmp_path / "file")
    assert torch.equal(kept.get(TIMESTEPS, 3.0), kept.get(TIMESTEPS, 3.0))
    assert len(counted.computed) == 1


def test_the_least_recently_used_file_goes_when_there_are_too_many(
    counted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(counted, tmp_path).get(TIMESTEPS, 1.0)
    [oldest] = tmp_path.iterdir()
    monkeypatch.setattr(tables, "DISK", 3 * oldest.stat().st_size)
    for age, scale in enumerate((2.0, 3.0)):
        make_tables(counted, tmp_path).get(TIMESTEPS, scale)
        for path in tmp_path.iterdir():
            os.utime(path, (age, age))
    make_tables(counted, tmp_path).get(TIMESTEPS, 1.0)  # read: it is young again
    make_tables(counted, tmp_path).get(TIMESTEPS, 4.0)
    assert len(list(tmp_path.iterdir())) == 3
    assert oldest.exists()


def test_other_weights_have_other_tables(copy: Path, tmp_path: Path) -> None:
    def computed(precision: str = "float32") -> bool:
        """Say whether a worker that starts now computes a table instead of reading it."""
        counted = Counted(load(copy, precision=precision).modulation)
        make_tables(counted, tmp_path / "kept").get(TIMESTEPS, 3.0)
        return bool(counted.computed)

    assert [computed(), computed()] == [True, False]
    assert computed("bfloat16")
    path = copy / "base/transformer/diffusion_pytorch_model.safetensors"
    os.utime(path, (1, 1))
    assert computed()
    bytes_before, tensors = path.stat().st_size, load_file(path)
    tensors["norm_out.linear.bias"] += 1
    save_file(tensors, path, {"format": "pt"})
    os.utime(path, (1, 1))
    assert path.stat().st_size == bytes_before
    assert computed()
