"""The tensors of a network's folder, read one at a time."""

import json
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from torch import Tensor

_WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


class Shards:
    """The safetensors files of a network, which stay open, so that they cannot change under a running worker.

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
        self._files: dict[str, Any] = {}
        self.versions: list[tuple[str, int, int]] = []  #: name, bytes and time of each file
        for path in sorted(folder / name for name in files):
            stat = path.stat()
            self.versions.append((path.name, stat.st_size, stat.st_mtime_ns))
            file: Any = safe_open(path, "pt", backend="pread")  # a mapped file that is cut ends the process
            self._files |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> list[str]:
        """What the tensors are called, in the order of the files."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU, in the file's dtype."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor
