"""``python -m tests.paced_worker``: a real worker around a model without weights.

It takes ``PACE`` seconds for a row's step and ``DECODE`` for its decoding, hangs for seed 13, and prints ``begin`` of
each job with its first seed, ``end`` of each variation with its own, and the time; ``call`` of the model from when to
when, unless it takes no time; and, if ``PHOTOS`` is set, so that its pictures are as hard to encode as photographs, how
long that took.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import psutil
from PIL import Image

import worker.runner
from shared.images import Picture
from shared.jobs import Recipe
from shared.metrics import serve
from shared.settings import Settings
from shared.sizes import Size
from shared.startup import start
from tests.models import ChosenScores, PacedModel, Steps
from tests.samples import MODEL
from worker import metrics
from worker.app import Worker
from worker.encoding import encode

CLOUD = 16  #: pixels along a side; a file of such clouds is about as large as a photograph's and takes as long


@cache
def clouds(size: Size) -> Picture:
    """Return a picture with structure in every channel, like no other."""
    small = (size.width // CLOUD, size.height // CLOUD)
    channels = [Image.effect_noise(small, 90).resize(size, Image.Resampling.BICUBIC) for _ in "RGB"]
    return Image.merge("RGB", channels)


def tell(*what: object) -> None:
    """Print a line in one piece: several threads do."""
    sys.stdout.write(" ".join(map(str, what)) + "\n")
    sys.stdout.flush()


@dataclass
class ToldModel(PacedModel):
    """A paced model that tells when it has work."""

    decoding: float = 0.0  #: seconds for a picture
    photos: bool = False

    def begin(self, prepared: Recipe) -> list[Steps]:
        tell("begin", prepared.seeds[0], time.time())
        return super().begin(prepared)

    def advance(self, rows: Sequence[Steps]) -> None:
        began = time.time()
        super().advance(rows)
        if self.pace:
            tell("call", began, time.time())

    def decode(self, row: Steps) -> Callable[[], Picture]:
        began = time.time()
        if self.decoding:
            time.sleep(self.decoding)
        tell("end", row.seed, time.time())
        tell("call", began, time.time())
        return partial(clouds, row.size) if self.photos else super().decode(row)


def told_encode(*given: Any) -> bytes:
    began = time.perf_counter()
    data = encode(*given)
    tell("encode", time.perf_counter() - began)
    return data


def work(settings: Settings) -> None:
    pace, decoding = (float(os.environ.get(name, usual)) for name, usual in (("PACE", 0.03), ("DECODE", 0)))
    model = ToldModel(pace=pace, hangs_for=frozenset({13}), decoding=decoding, photos="PHOTOS" in os.environ)
    if model.photos:
        setattr(worker.runner, "encode", told_encode)  # noqa: B010  mypy takes assignments for mistakes
    serve(settings.worker.metrics_port)
    own = psutil.Process()  # its memory stands for a device's
    metrics.loaded(time.time() - own.create_time(), lambda: (own.memory_info().rss, psutil.virtual_memory().total))
    Worker(settings, model, ChosenScores(), MODEL).work()


if __name__ == "__main__":
    start("worker", work)
