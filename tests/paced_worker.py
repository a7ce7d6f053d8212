"""``python -m tests.paced_worker``: a real worker around a model without weights.

It takes ``PACE`` seconds a step, hangs for seed 13, and prints ``begin`` and ``end`` of each job with its seed and the
time.
"""

import os
import time
from typing import Any

from shared.images import Picture
from shared.jobs import Recipe
from shared.settings import Settings
from shared.startup import start
from tests.models import ChosenScores, PacedModel, Steps
from tests.samples import MODEL
from worker.app import Worker


class ToldModel(PacedModel):
    """A paced model that tells when it has work."""

    def begin(self, condition: Any, recipe: Recipe) -> Steps:
        print("begin", recipe.seeds[0], time.time(), flush=True)
        return super().begin(condition, recipe)

    def decode(self, denoising: Steps) -> list[Picture]:
        pictures = super().decode(denoising)
        print("end", denoising.recipe.seeds[0], time.time(), flush=True)
        return pictures


def work(settings: Settings) -> None:
    model = ToldModel(pace=float(os.environ.get("PACE", "0.03")), hangs_for=frozenset({13}))
    Worker(settings, model, ChosenScores(), MODEL).work()


if __name__ == "__main__":
    start("worker", work)
