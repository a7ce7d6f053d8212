"""The check of the model's files and of the GPU that they need; it reads headers, no weights."""

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from reduxq.operating.findings import Check, Finding, Level, Site, judge

Header = dict[str, Any]  #: of a safetensors file: what it says of each tensor

DIFFUSERS: Final = "diffusion_pytorch_model.safetensors"
#: What the worker loads, by setting: a part's configuration and its weights.
NEEDED: Final = {
    "base": {"scheduler/scheduler_config.json": "", "vae/config.json": DIFFUSERS, "transformer/config.json": DIFFUSERS},
    "redux": {
        "feature_extractor/preprocessor_config.json": "",
        "image_encoder/config.json": "model.safetensors",
        "image_embedder/config.json": DIFFUSERS,
    },
    "safety_checker": {"preprocessor_config.json": "", "config.json": "model.safetensors"},
}
TABLED: Final = re.compile(r"(^|\.)norm\w*\.linear\.")  #: tensors for which tables stand; the device never holds them
WIDTHS: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}  #: bytes of a number
HEADROOM: Final = 3 * 2**30  #: bytes beside the weights: docs/benchmarks.md's goal of 20 GiB, less FLUX.1's 17
OFFLINE: Final = frozenset({"1", "ON", "YES", "TRUE"})  #: as the hub's library reads HF_HUB_OFFLINE


def model(site: Site) -> Iterator[Finding]:
    """Look at whether every file is there and whole, and a GPU large enough."""
    headers = {setting: list[Header]() for setting in NEEDED}
    for setting, parts in NEEDED.items():
        place = getattr(site.settings.model, setting)
        folder = _folder(place)
        if not folder:
            offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE
            mend = "run `reduxq model pull` if a worker runs on this machine, or else the doctor where one does"
            yield Finding(Level.BROKEN if offline else Level.WARNING, f"{place} is not on this machine", mend)
            return
        faults = []
        for configuration, weights in parts.items():
            try:
                headers[setting] += _headers(folder / configuration, weights)
            except (OSError, LookupError, AttributeError, ValueError) as error:
                faults.append(f"{(folder / configuration).parent}: {error}")
        mend = "run `reduxq model pull`, which fetches what is missing or cut off"
        yield judge(not faults, "; ".join(faults) or f"{place} is complete", mend)
    if site.settings.model.device != "cpu":
        width = WIDTHS[site.settings.model.precision]
        need = sum(map(numbers, headers["base"] + headers["redux"])) * width + HEADROOM
        yield from _room(need, site.settings.model.device)


def _folder(place: str) -> Path | None:
    """Return where a model's files are on this machine, if they are."""
    if Path(place).is_dir():
        return Path(place)
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface", "hub")
    cached = Path(hub).expanduser() / f"models--{place.replace('/', '--')}"
    main = cached / "refs" / "main"
    return cached / "snapshots" / main.read_text().strip() if main.is_file() else None


def _headers(configuration: Path, weights: str) -> list[Header]:
    """Return the headers of a part's weights, if it has some.

    Raises:
        OSError: If a file cannot be read.
        LookupError, AttributeError, ValueError: If one is broken.
    """
    json.loads(configuration.read_text())
    index = configuration.with_name(f"{weights}.index.json")
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {weights} - {""}
    return [_header(configuration.with_name(name)) for name in sorted(shards)]


def _header(path: Path) -> Header:
    """Return what a safetensors file says of its tensors.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not as long as it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: Header = json.loads(file.read(length)) if length < size else {}
    header.pop("__metadata__", None)
    if size != (whole := 8 + length + max((told["data_offsets"][1] for told in header.values()), default=0)):
        raise ValueError(f"{path.name} is cut off or broken: it has {size:,} of {whole:,} bytes")
    return header


def numbers(header: Header) -> int:
    return sum(math.prod(told["shape"]) for name, told in header.items() if not TABLED.search(name))


def _room(need: int, device: str) -> Iterator[Finding]:
    """Tell whether the worker's GPU has so many bytes, and whether they are free."""
    wanted, tool = f"the {need / 2**30:.1f} GiB that the model needs", shutil.which("nvidia-smi")
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not tool or (names and names.startswith("MIG-")):  # nvidia-smi's query knows no slices
        yield Finding(Level.NOTE, f"no GPU seen from here to have {wanted}")
        return
    asked = (tool, "--query-gpu=index,uuid,memory.total,memory.used", "--format=csv,noheader,nounits")
    told = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.splitlines()
    there = [line.split(", ") for line in told]
    if names:
        chosen = [name.strip() for name in names.split(",")]
        there = [gpu for name in chosen for gpu in there if name == gpu[0] or (name and gpu[1].startswith(name))]
    number = int(device.partition(":")[2] or 0)
    if number >= len(there):
        mend = "compare REDUXQ_MODEL__DEVICE and CUDA_VISIBLE_DEVICES with `nvidia-smi -L`"
        yield Finding(Level.BROKEN, f"no GPU is {device} for a worker here", mend)
        return
    index, _, most, used = there[number]
    mend = "use a larger GPU, or REDUXQ_MODEL__PRECISION=float8, which is not exact"
    yield judge(int(most) * 2**20 >= need, f"GPU {index} has {int(most) / 2**10:.1f} GiB of {wanted}", mend)
    if int(most) * 2**20 >= need > (int(most) - int(used)) * 2**20:  # whose it is does not show in a container
        mend = "fine if its worker runs; or else end what `nvidia-smi` shows there"
        yield Finding(Level.NOTE, f"{int(used) / 2**10:.1f} GiB of GPU {index} are in use", mend)


CHECK: Final = Check("model", model, "look at the files' owners and at nvidia-smi")
