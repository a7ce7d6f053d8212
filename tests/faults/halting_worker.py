"""``python -m tests.faults.halting_worker``: a real worker without weights that a test can stop in each phase of a job.

It takes ``PACE`` seconds a step and makes small pictures; the seed :data:`POISON` kills it.
"""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

from PIL import Image

import worker.runner
from shared.ids import AssetKey, JobId
from shared.images import Picture
from shared.jobs import JobRecord, Recipe
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.startup import start
from shared.transitions import Transition
from tests.faults.halts import halt
from tests.models import ChosenScores, PacedModel, Steps
from tests.samples import MODEL
from worker.app import Worker
from worker.encoding import encode
from worker.runner import Update

POISON = 2**32 - 1  #: seed that no worker survives


class HaltingModel(PacedModel):
    def begin(self, prepared: Recipe) -> list[Steps]:
        if prepared.seeds[0] == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(prepared)

    def advance(self, rows: Sequence[Steps]) -> None:
        super().advance(rows)
        halt("denoising")

    def decode(self, row: Steps) -> Callable[[], Picture]:
        return partial(Image.new, "RGB", (16, 16), (row.seed % 256, 0, 0))


class HaltingObjects(ObjectStore):
    def get(self, key: AssetKey) -> bytes:
        halt("reading")
        return super().get(key)

    def put(self, key: AssetKey, body: BinaryIO | bytes, content_type: str) -> str:
        etag = super().put(key, body, content_type)
        halt("uploading")
        return etag


def halting_encode(picture: Picture, *options: Any) -> bytes:
    halt("encoding")
    return encode(picture, *options)


def halting(update: Update) -> Update:
    def halting_update(job_id: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
        name = getattr(transition, "func", transition).__name__
        halt(f"before-{name}")
        record = update(job_id, transition, known)
        halt(f"after-{name}")
        return record

    return halting_update


def work(settings: Settings) -> None:
    this = Worker(settings, HaltingModel(pace=float(os.environ["PACE"])), ChosenScores(), MODEL)
    objects = HaltingObjects(settings.storage)
    this._runner = replace(this._runner, objects=objects, update=halting(this._runner.update))
    setattr(worker.runner, "encode", halting_encode)  # noqa: B010  mypy takes assignments for mistakes
    this.work()


if __name__ == "__main__":
    start("worker", work)
