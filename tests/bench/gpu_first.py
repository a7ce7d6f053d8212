"""A worker's model without queue or engine: loads what the settings name, makes pictures, tells how long that took.

Prints one line of JSON, with seconds since the process began and its peaks of memory. Run by ``tests.bench.gpu``.
"""

import argparse
import json
import resource
import time
from typing import Any

import psutil
import torch

from shared.images import read_source
from shared.jobs import Recipe
from shared.settings import load_settings
from tests.bench.gpu_meter import GIB
from tests.bench.gpu_models import GUIDANCE, SCALES, Scale
from tests.samples import encoded, picture
from worker.redux.model import ReduxModel
from worker.redux.weights import load_weights


def since_start() -> float:
    """Return the seconds since the system made this process."""
    return time.time() - psutil.Process().create_time()


def memory(device: torch.device) -> dict[str, float]:
    """Return the peaks so far, in GiB."""
    found = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        found["device_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        found["device_reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return found


def vary(model: ReduxModel, scale: Scale, *seeds: int) -> float:
    """Make a variation for each seed, all in each call, and return how many seconds that took."""
    began = time.perf_counter()
    recipe = Recipe(scale.large, scale.steps, GUIDANCE, seeds)
    rows = model.begin(model.prepare(read_source(encoded(picture(640, 480), "PNG")), recipe))
    for _ in range(scale.steps):
        model.advance(rows)
    for finish in [model.decode(row) for row in rows]:
        assert finish().size == scale.large
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--load-only", action="store_true")
    chosen = parser.parse_args()
    settings, scale = load_settings().model, SCALES[chosen.scale]
    imported = since_start()
    weights = load_weights(settings.base, settings.redux, precision=settings.precision, device=settings.device)
    told: dict[str, Any] = {"loading_s": since_start() - imported, "loading": memory(weights.device)}
    told["first_s"] = told["loading_s"]
    if not chosen.load_only:
        model = ReduxModel(weights, settings)
        told["first_image_s"] = vary(model, scale, 1)
        told["first_s"] = since_start()
        told["image_s"] = min(vary(model, scale, seed) for seed in (2, 3))
        told["one"] = memory(weights.device)
        told["four_images_s"] = [vary(model, scale, *range(first, first + 4)) for first in (4, 8)][-1]
        told["four"] = memory(weights.device)
        told["peak_gib"] = told["one"].get("device_reserved_gib")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
