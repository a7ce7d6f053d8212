"""Modulation tables that were computed before, in memory and on disk."""

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from worker import metrics
from worker.redux.cache import Cache
from worker.redux.device import Device
from worker.redux.modulation import Modulation
from worker.redux.shards import TensorFile

log = structlog.get_logger(__name__)

MEMORY: Final = 256 * 2**20  #: bytes of tables kept on the device; FLUX.1's take 2.1 MB a step
DISK: Final = 4 * 2**30  #: bytes of tables kept on disk


class Tables:
    """The modulation tables of one model.

    Args:
        modulation: Computes what is not there.
        device: Where they are used.
        folder: Keeps them for the next start and for other workers; one that cannot be written is done without.
    """

    def __init__(self, modulation: Modulation, device: Device, folder: Path) -> None:
        self._modulation = modulation
        self._device = device
        self._folder = folder
        self._fingerprint = modulation.fingerprint()
        self._memory = Cache(MEMORY)

    def get(self, timesteps: Sequence[float], guidance_scale: float) -> Tensor:
        """Return (steps, numbers) on the device; computing it reads 6 GB for FLUX.1, so call it beside the engine."""
        key = sha256(repr((self._fingerprint, timesteps, guidance_scale)).encode()).hexdigest()

        def make() -> Tensor:
            if (kept := self._read(key)) is not None:
                metrics.TABLES.labels("disk").inc()
                return self._device.send(kept)
            table = self._modulation.table(timesteps, guidance_scale)
            metrics.TABLES.labels("miss").inc()
            self._write(key, table.cpu())
            return table

        if (here := self._memory.peek(key)) is not None:
            metrics.TABLES.labels("hit").inc()
            return here
        return self._memory.get(key, lambda: self._device.beside(make))

    def _read(self, key: str) -> Tensor | None:
        """Return the table of that key, unless it is missing or not what was written."""
        path = self._folder / key
        try:
            with closing(TensorFile(path)) as file:
                table = file.read("table")
            if file.metadata.get("digest") == _digest(key, table):
                with suppress(OSError):  # another's file, or one that cannot be written
                    os.utime(path)  # the least recently used goes first
                return table
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, LookupError, ValueError) as error:
            log.warning("cannot read a modulation table", path=str(path), reason=str(error))
            return None
        log.warning("a modulation table is not what was written", path=str(path))
        return None

    def _write(self, key: str, table: Tensor) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(table.nbytes)
            with NamedTemporaryFile(prefix=".", dir=self._folder, delete=False) as fresh:
                save_file({"table": table}, fresh.name, {"digest": _digest(key, table)})
            Path(fresh.name).replace(self._folder / key)
        except (OSError, SafetensorError) as error:
            log.warning("cannot keep a modulation table", folder=str(self._folder), reason=str(error))

    def _make_room(self, size: int) -> None:
        files = [path for path in self._folder.iterdir() if path.is_file()]
        over = sum(path.stat().st_size for path in files) + size - DISK
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            if over <= 0:
                break
            over -= path.stat().st_size
            path.unlink(missing_ok=True)


def _digest(key: str, table: Tensor) -> str:
    found = sha256(f"{key} {table.dtype} {tuple(table.shape)}".encode())
    found.update(table.view(torch.uint8).numpy().data)
    return found.hexdigest()
