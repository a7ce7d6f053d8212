"""Whether the doctor sees what is wrong with a model's files, and with a GPU for them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from reduxq.operating.doctor import examine
from reduxq.operating.findings import Level, Site
from reduxq.operating.model_checks import CHECK, DIFFUSERS, NEEDED, numbers
from shared.clock import Clock
from shared.settings import ModelSettings, Settings

ROW = np.zeros(2**10, "float32")


def faults(settings: Settings) -> list[str]:
    """Return what is not well, with what mends it."""
    found = [finding for _, finding in examine(Site(settings, None, Clock()), [CHECK], 60)]
    return [f"{fault.level}: {fault.found} -> {fault.mend}" for fault in found if fault.level is not Level.OK]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of nothing but its files."""
    for setting, parts in NEEDED.items():
        for configuration, weights in parts.items():
            place = tmp_path / "model" / setting / configuration
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("{}")
            if weights:
                save_file({"norm1.linear.weight": ROW, "proj_out.weight": ROW}, place.with_name(weights))
    return tmp_path / "model"


def with_model(model: Path, device: str = "cpu") -> Settings:
    return Settings(model=ModelSettings(device=device, **{setting: f"{model / setting}" for setting in NEEDED}))


def test_a_file_of_the_model_that_is_missing_or_cut_off_is_named(model: Path) -> None:
    weights = model / "base" / "transformer" / DIFFUSERS
    (model / "redux" / "image_embedder" / "config.json").unlink()
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size - 1)
    cut, missing = faults(with_model(model))
    assert f"{weights.name} is cut off or broken: it has {size - 1:,} of {size:,} bytes -> run `reduxq model" in cut
    assert "No such file or directory" in missing
    assert "image_embedder/config.json" in missing
    weights.write_bytes(b"<html>")
    assert "base/transformer: " in faults(with_model(model))[0]


def test_a_shard_that_is_missing_is_named(model: Path) -> None:
    weights = model / "base" / "vae" / DIFFUSERS
    shards = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = weights.with_name(f"{weights.name}.index.json")
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    weights.rename(weights.with_name(shards[0]))
    (fault,) = faults(with_model(model))
    assert shards[1] in fault
    shutil.copy(weights.with_name(shards[0]), weights.with_name(shards[1]))
    assert not faults(with_model(model))


def test_a_model_is_found_where_the_hub_keeps_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    settings = with_model(model)
    hub = settings.model_copy(update={"model": settings.model.model_copy(update={"base": "house/model"})})
    (fault,) = faults(hub)
    assert fault.startswith("warning: house/model is not on this machine -> run `reduxq model pull`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert faults(hub)[0].startswith("broken: ")
    cached = tmp_path / "models--house--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(model / "base", cached / "snapshots" / "abc")
    assert not faults(hub)


def test_a_gpu_that_is_too_small_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    ask = partial(faults, with_model(model, "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask() == ["note: no GPU seen from here to have the 3.0 GiB that the model needs -> "]
    tool.write_text("#!/bin/sh\necho 2048\necho 2048\n")
    tool.chmod(0o755)
    assert ask()[0].startswith("broken: 0 of 2 GPUs have the 3.0 GiB that the model needs -> use a larger GPU")
    tool.write_text("#!/bin/sh\necho 2048\necho 24576\n")
    assert not ask()


def test_what_tables_stand_for_takes_no_room() -> None:
    tabled = (
        "transformer_blocks.0.norm1.linear.weight",
        "single_transformer_blocks.3.norm.linear.bias",
        "norm_out.linear.bias",
    )
    held = ("transformer_blocks.0.attn.to_q.weight", "encoder.mid_block.norm1.weight")
    assert numbers({name: {"shape": [2, 3]} for name in (*tabled, *held)}) == 12
