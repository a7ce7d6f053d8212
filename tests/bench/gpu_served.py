"""The production path, once: the real worker process on a bundle on disk, jobs through HTTP, Celery, Valkey and S3."""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from shared.connections import run
from shared.keys import create_key
from tests import servers
from tests.bench.gpu_models import Scale
from tests.ground import Ground
from tests.samples import encoded, picture
from tests.stack import feature, upload, wait_for

NAME = "bench"
AGAIN = 3  #: jobs after the first; the best of them tells the pace of a warm worker


def serve(folder: Path, scale: Scale, settings: Mapping[str, str], *, seconds: float) -> dict[str, Any]:
    """Return what a client saw: seconds until the worker was ready, of its first job, of the quickest of some more.

    And what the worker said that the model took for that one.

    Args:
        folder: For servers and logs.
        scale: Of the model that ``settings`` name.
        settings: Of the worker.
        seconds: That the worker's start and a job may take.

    Raises:
        AssertionError: If the worker is not ready in time, or a job does not succeed.
    """
    with ExitStack() as living:
        ground = Ground(folder, living)
        environment = ground.environment | {"REDUXQ_WORKER__NAME": NAME, **settings}
        began = time.monotonic()
        worker = _start(living, folder, "worker", environment)
        _start(living, folder, "api.dispatcher", environment)
        url = living.enter_context(servers.api(folder, environment))
        key = run(ground.records, create_key(NAME, "somebody"))
        client = living.enter_context(httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=60))
        alive = f"worker:{NAME}"
        servers.wait_until(lambda: ground.records.exists(alive) or worker.poll() is not None, seconds)
        assert worker.poll() is None, ground.log("worker")[-2000:]
        ready = time.monotonic() - began
        source = upload(client, encoded(picture(640, 480), "PNG"))["key"]
        took = [_job(client, source, scale, seconds) for _ in range(1 + AGAIN)]
    (first, _), *more = took
    image, model = min(more)
    return {"first_s": ready, "first_job_s": first, "image_s": image, "gpu_s": model}


def _start(living: ExitStack, folder: Path, module: str, environment: Mapping[str, str]) -> Any:
    command = [sys.executable, "-m", module]
    return living.enter_context(servers.process(command, folder / f"{module}.log", environment))


def _job(client: httpx.Client, source: str, scale: Scale, seconds: float) -> tuple[float, float]:
    """Return how long one variation took from the call to the stored file, and the model for it, in seconds."""
    began = time.monotonic()
    wanted: dict[str, Any] = {
        "aspect_ratio": "1:1",
        "megapixels": scale.megapixels,
        "num_inference_steps": scale.steps,
    }
    record = wait_for(client, feature(client, source, **wanted)["uuid"], seconds)
    took = time.monotonic() - began
    assert record["status"] == "SUCCESS", record
    return took, record["additionalData"]["timings"]["gpuSeconds"]
