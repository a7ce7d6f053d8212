"""A bundle on disk: how long it takes to load, until its first picture, and through the whole service."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.gpu_models import SCALES
from tests.bench.gpu_served import serve
from tests.servers import ROOT

NEEDED: Final = {"full": 30 * 10**9, "tiny": 10**8}  #: free bytes on disk that a bundle and the caches want
PRECISIONS: Final = {"cuda": "bfloat16", "cpu": "float32"}


class Bundle:
    """What is measured on a bundle, each in a process of its own.

    Args:
        folder: Holds the bundle, in ``bundle``, and what the processes leave.
        scale: The bundle's.
        device: Torch's name.
        left: Returns the seconds that the run may still take.
    """

    def __init__(self, folder: Path, scale: str, device: str, left: Callable[[], float]) -> None:
        self.folder = folder
        self.place = bundle = folder / "bundle"
        self._scale = scale
        self._left = left
        warm = SCALES[scale].large if scale == "full" else (512, 512)  # the service knows no smaller ones
        self._settings = {
            "REDUXQ_MODEL__BASE": str(bundle / "base"),
            "REDUXQ_MODEL__REDUX": str(bundle / "redux"),
            "REDUXQ_MODEL__SAFETY_CHECKER": str(bundle / "safety"),
            "REDUXQ_MODEL__DEVICE": device,
            "REDUXQ_MODEL__PRECISION": PRECISIONS[device.partition(":")[0]],
            "REDUXQ_MODEL__WARM_SIZES": json.dumps(["{}x{}".format(*warm)]),
            "REDUXQ_MODEL__CACHE": str(folder / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }

    def stages(self) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
        """Give name, goal and what measures it, in order of importance; the first stage finds nothing compiled."""
        yield "first image, compiled anew", "", self._first
        yield "first image, compiled before", "<= 15 s, <= 3.7 s/image, <= 20 GiB", self._first
        yield "job through HTTP, Celery, Valkey and S3", "", self._serve
        if self._settings["REDUXQ_MODEL__PRECISION"] == "bfloat16":
            yield "first image, float8, compiled anew", "<= 2.7 s/image", self._first_float8
        yield "loading, nothing in the page cache", "", self._load

    def _first(self) -> dict[str, Any]:
        return self._run(["--scale", self._scale], self._settings)

    def _first_float8(self) -> dict[str, Any]:
        return self._run(["--scale", self._scale], self._settings | {"REDUXQ_MODEL__PRECISION": "float8"})

    def _load(self) -> dict[str, Any]:
        drop_pages(self.place)
        return self._run(["--scale", self._scale, "--load-only"], self._settings)

    def _serve(self) -> dict[str, Any]:
        place = self.folder / "service"
        place.mkdir()
        return serve(place, SCALES[self._scale], self._settings, seconds=self.seconds())

    def _run(self, arguments: list[str], settings: dict[str, str]) -> dict[str, Any]:
        """Return what the process tells in its last line.

        Raises:
            subprocess.TimeoutExpired: If it is not done when the time of the run is.
            RuntimeError: If it fails; the message is the last line of its error.
        """
        command = [sys.executable, "-m", "tests.bench.gpu_first", *arguments]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDUXQ_")}
        options: Any = {"cwd": ROOT, "env": inherited | settings, "capture_output": True, "text": True}
        done = subprocess.run(command, check=False, timeout=self.seconds(), **options)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    def seconds(self) -> float:
        """Return what a stage may take.

        Raises:
            TimeoutError: If that is nothing.
        """
        left = self._left()
        if left <= 0:
            raise TimeoutError("not run")
        return left


def room(folder: Path) -> int:
    """Return how many bytes the disk still takes."""
    return shutil.disk_usage(folder).free


def drop_pages(folder: Path) -> None:
    """Have the system forget what it has read or written of these files, so that they come from the disk."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
