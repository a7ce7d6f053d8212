"""Tensors in safetensors files, read one at a time while other threads go on."""

import json
import math
import os
from pathlib import Path
from typing import Final, NamedTuple
from weakref import finalize

import torch
from safetensors import safe_open
from torch import Tensor

_WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}


class _Place(NamedTuple):
    """Where a tensor stands."""

    dtype: str  #: as the format calls it
    shape: tuple[int, ...]
    start: int  #: bytes from the beginning of the file


class TensorFile:
    """A safetensors file, which stays open. Any number of threads may read.

    safetensors itself reads with no other Python thread running, 0.05 s and more for FLUX.1's largest layer, in which
    the engine could start no call; or it maps the file, and the process ends when a mapped file is cut.

    Raises:
        OSError: If it is missing.
        SafetensorError: If it is broken.

    Source of the format: huggingface/safetensors, README.md.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt", backend="pread"):
            pass  # it refuses a file that is not whole
        self._path, self._file = path, os.open(path, os.O_RDONLY)
        self.close = finalize(self, os.close, self._file)
        length = int.from_bytes(os.pread(self._file, 8, 0), "little")
        header = json.loads(os.pread(self._file, length, 8))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._places = {
            name: _Place(told["dtype"], tuple(told["shape"]), 8 + length + told["data_offsets"][0])
            for name, told in header.items()
        }

    @property
    def names(self) -> list[str]:
        """What the tensors are called, in the order of the file."""
        return sorted(self._places, key=lambda name: self._places[name].start)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """Return a tensor, or so many rows of it at most, on the CPU, in the file's dtype.

        Raises:
            OSError: If it cannot be read, or the file was cut.
            ValueError: If it is of a dtype that no network of ours has.
        """
        kind, shape, start = self._places[name]
        if kind not in _DTYPES:
            raise ValueError(f"{name} in {self._path} has dtype {kind}, allowed are {', '.join(_DTYPES)}")
        dtype = _DTYPES[kind]
        shape = shape if rows is None else (min(rows, shape[0]), *shape[1:])
        tensor = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        there, done = tensor.numpy().data, 0
        while done < len(there):  # the system reads 2 GiB in one go at most
            read = os.preadv(self._file, [there[done:]], start + done)
            if not read:
                raise OSError(f"{self._path} ends in the middle of {name}")
            done += read
        return tensor.view(dtype).reshape(shape)


class Shards:
    """The safetensors files of a network's folder, which stay open, so that they cannot change under a running worker.

    Nothing else is ever opened, for a pickle can run any code. Any number of threads may read.

    Raises:
        OSError: If a file is missing.
        SafetensorError: If one is broken.
        ValueError: If their index is none.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / f"{_WEIGHTS}.index.json"
        try:
            files = (
                set(map(str, json.loads(index.read_text())["weight_map"].values())) if index.exists() else {_WEIGHTS}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index.name} is no index of shards") from error
        self._files: dict[str, TensorFile] = {}
        self.versions: list[tuple[str, int, int]] = []  #: name, bytes and time of each file
        for path in sorted(folder / name for name in files):
            stat = path.stat()
            self.versions.append((path.name, stat.st_size, stat.st_mtime_ns))
            file = TensorFile(path)
            self._files |= dict.fromkeys(file.names, file)

    @property
    def names(self) -> list[str]:
        """What the tensors are called, in the order of the files."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """As :meth:`TensorFile.read`."""
        return self._files[name].read(name, rows)
