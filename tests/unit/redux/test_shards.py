"""Tensors as they stand in safetensors files; safetensors itself says what is right."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from worker.redux.shards import TensorFile

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    made = {str(kind): torch.randn(5, 3, 2).to(kind) for kind in KINDS}
    return {**made, "number": torch.tensor(3.5), "nothing": torch.zeros(0, 4), "a row": torch.randn(7)}


@pytest.fixture
def path(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "some.safetensors", {"said": "so"})
    return tmp_path / "some.safetensors"


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()


def test_every_tensor_is_read_as_it_was_written(path: Path, tensors: dict[str, Tensor]) -> None:
    with closing(TensorFile(path)) as file:
        assert set(file.names) == set(tensors)
        assert file.metadata == {"said": "so"}
        assert all(same(file.read(name), tensor) for name, tensor in tensors.items())
        assert all(file.shape(name) == tuple(tensor.shape) for name, tensor in tensors.items())
        assert same(file.read("torch.bfloat16", rows=2), tensors["torch.bfloat16"][:2])


def test_what_the_system_reads_in_pieces_is_whole(
    path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv

    def some(file: int, buffers: list[Any], at: int) -> int:
        return whole(file, [buffers[0][:7]], at)

    monkeypatch.setattr(os, "preadv", some)
    with closing(TensorFile(path)) as file:
        assert all(same(file.read(name), tensor) for name, tensor in tensors.items())


def test_a_file_that_is_cut_while_it_is_open_is_an_error_and_not_the_end(path: Path) -> None:
    with closing(TensorFile(path)) as file:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(OSError, match=f"{file.names[-1]}"):
            file.read(file.names[-1])
        file.read(file.names[0])


def test_numbers_that_no_network_has_are_named(tmp_path: Path) -> None:
    save_file({"odd": torch.zeros(2, dtype=torch.int64)}, tmp_path / "odd")
    with (
        closing(TensorFile(tmp_path / "odd")) as file,
        pytest.raises(ValueError, match=r"odd in .* has dtype I64, allowed are"),
    ):
        file.read("odd")
