"""The tiny model: the hub's layout, the same bytes every time, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Misconfigured
from worker.redux import tiny
from worker.redux.weights import Weights

LAYOUT = {
    "base/scheduler/scheduler_config.json",
    "base/transformer/config.json",
    "base/transformer/diffusion_pytorch_model.safetensors",
    "base/vae/config.json",
    "base/vae/diffusion_pytorch_model.safetensors",
    "redux/feature_extractor/preprocessor_config.json",
    "redux/image_embedder/config.json",
    "redux/image_embedder/diffusion_pytorch_model.safetensors",
    "redux/image_encoder/config.json",
    "redux/image_encoder/model.safetensors",
    "safety/config.json",
    "safety/model.safetensors",
    "safety/preprocessor_config.json",
}


def test_its_layout_is_the_hubs(bundle: Path) -> None:
    assert set(_contents(bundle)) == LAYOUT


def test_it_is_the_same_to_the_byte_every_time(bundle: Path, tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path / "again")
    assert _contents(tmp_path / "again") == _contents(bundle)


def test_it_takes_a_few_megabytes_that_everybody_may_read(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)


def test_it_says_that_nobody_trained_it(weights: Weights) -> None:
    assert not weights.trained


def test_an_older_tiny_model_is_replaced(tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path / "model")
    stale = tmp_path / "model" / "base" / "vae" / "stale"
    stale.touch()
    tiny.write_tiny(tmp_path / "model")
    assert not stale.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_anything_else_is_left_alone(tmp_path: Path) -> None:
    keepsake = tmp_path / "photo.jpg"
    keepsake.touch()
    with pytest.raises(Misconfigured, match="something other than a tiny model"):
        tiny.write_tiny(tmp_path)
    assert keepsake.exists()


def test_a_maker_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr(tiny, "_write", write_half)
    with pytest.raises(OSError, match="disk full"):
        tiny.write_tiny(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_it(bundle: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "worker.redux.tiny", str(tmp_path / "model")], check=True)
    assert _contents(tmp_path / "model") == _contents(bundle)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").touch()
    monkeypatch.setattr(sys, "argv", ["tiny", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        tiny.main()
    assert ended.value.code == f"{tmp_path} holds something other than a tiny model; name another folder"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
