"""A dispatcher and paced workers on servers of their own, which a test may stop and start again."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from shared.connections import run
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus, Lane
from shared.transitions import cancel
from tests import servers
from tests.ground import Ground
from tests.samples import encoded, fund, picture, record
from tests.servers import wait_until

STORE = JobStore(timedelta(seconds=2))
LEASE = {"REDUXQ_JOBS__LEASE_SECONDS": "2"}


class Yard(Ground):
    """Everything real but the weights; each worker's output is in a file of its own."""

    def __init__(self, folder: Path, living: ExitStack, settings: Mapping[str, str] = LEASE) -> None:
        super().__init__(folder, living)
        self.environment |= settings
        fund(self.records)
        self.objects.put(AssetKey("images/source.png"), encoded(picture(), "PNG"), "image/png")
        self._process("dispatcher", "api.dispatcher", {})

    def worker(self, name: str, *, pace: float, **settings: float) -> "subprocess.Popen[bytes]":
        """Start a worker that takes ``pace`` seconds a step, and wait until it takes jobs."""
        chosen = {f"REDUXQ_WORKER__{setting.upper()}": str(value) for setting, value in settings.items()}
        worker = self._process(name, "tests.paced_worker", {"PACE": str(pace), "REDUXQ_WORKER__NAME": name} | chosen)
        wait_until(lambda: self.records.exists(f"worker:{name}") or worker.poll() is not None)
        assert worker.poll() is None, self.log(name)
        return worker

    def accept(self, lane: Lane = Lane.NORMAL, **parameters: Any) -> JobId:
        job = record(datetime.now(UTC), **{"megapixels": "0.25"} | parameters).model_copy(update={"lane": lane})
        run(self.records, STORE.accept(job))
        return job.id

    def stored(self, job_id: JobId) -> JobRecord:
        job = run(self.records, STORE.get(job_id))
        assert job is not None
        return job

    def cancel(self, job_id: JobId) -> None:
        run(self.records, STORE.update(job_id, partial(cancel, now=datetime.now(UTC))))

    def wait_for(self, job_id: JobId, *statuses: JobStatus, seconds: float = 20) -> JobRecord:
        wait_until(lambda: self.stored(job_id).status in statuses, seconds)
        return self.stored(job_id)

    def denoising(self, name: str) -> None:
        """Wait until the worker's engine has begun a job."""
        wait_until(lambda: "begin" in self.log(name))

    def _process(self, name: str, module: str, more: dict[str, str]) -> "subprocess.Popen[bytes]":
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", module]
        return self._living.enter_context(servers.process(command, log, self.environment | more))
