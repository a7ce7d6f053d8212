"""Whether the doctor sees what is wrong with a model's files, and with a GPU for them."""

import json
import shutil
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


@pytest.mark.parametrize(
    ("device", "visible", "found"),
    [
        ("cuda", None, ["broken: GPU 0 has 2.0 GiB of the 3.0 GiB that the model needs -> use a larger GPU"]),
        ("cuda:1", None, []),
        ("cuda", "1", []),
        ("cuda", "GPU-b", []),
        ("cuda:1", "1, 0", ["broken: GPU 0 has 2.0 GiB"]),
        ("cuda", "2", ["note: 22.0 GiB of GPU 2 are in use -> fine if its worker runs"]),
        ("cuda", "MIG-d", ["note: no GPU seen from here"]),
        ("cuda:3", None, ["broken: no GPU is cuda:3 for a worker here"]),
        ("cuda:1", "1", ["broken: no GPU is cuda:1"]),
    ],
)
def test_the_gpu_that_a_worker_gets_is_looked_at_and_no_other(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, found: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 2048, 1'\necho '1, GPU-b, 24576, 1'\necho '2, GPU-c, 24576, 22528'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = faults(with_model(model, device))
    assert len(told) == len(found)
    assert all(fault.startswith(start) for fault, start in zip(told, found, strict=True)), told


def test_where_no_gpu_is_seen_its_memory_is_a_note(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = faults(with_model(model, "cuda"))
    assert told == ["note: no GPU seen from here to have the 3.0 GiB that the model needs -> "]


def test_what_tables_stand_for_takes_no_room() -> None:
    tabled = (
        "transformer_blocks.0.norm1.linear.weight",
        "single_transformer_blocks.3.norm.linear.bias",
        "norm_out.linear.bias",
    )
    held = ("transformer_blocks.0.attn.to_q.weight", "encoder.mid_block.norm1.weight")
    assert numbers({name: {"shape": [2, 3]} for name in (*tabled, *held)}) == 12
