"""A dispatcher and paced workers on servers of their own, which a test may stop and start again."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.programs import connect, run
from shared.settings import StorageSettings
from shared.transitions import cancel
from tests import servers
from tests.samples import encoded, fund, picture, record
from tests.servers import wait_until

STORE = JobStore(timedelta(seconds=2))
LEASE = {"REDUXQ_JOBS__LEASE_SECONDS": "2"}


class Yard:
    """Everything real but the weights; each worker's output is in a file of its own."""

    def __init__(self, folder: Path, living: ExitStack, settings: Mapping[str, str] = LEASE) -> None:
        self._folder = folder
        self._living = living
        self._ports = {servers.valkey: servers.free_port(), servers.s3: servers.free_port()}
        self._servers: dict[Any, ExitStack] = {}
        url, endpoint = self.serve(servers.valkey), self.serve(servers.s3)
        self._environment = servers.settings_for(url, endpoint) | dict(settings)
        self.records = living.enter_context(connect(url))
        fund(self.records)
        keys = {"access_key": SecretStr(servers.ACCESS_KEY), "secret_key": SecretStr(servers.SECRET_KEY)}
        self.objects = ObjectStore(StorageSettings(endpoint=endpoint, bucket="tests", **keys))
        self.objects.create_bucket()
        self.objects.put(AssetKey("images/source.png"), encoded(picture(), "PNG"), "image/png")
        self._process("dispatcher", "api.dispatcher", {})

    def serve(self, server: Any) -> str:
        """Start ``servers.valkey`` or ``servers.s3``, for the first time or again, and give its URL."""
        self._servers[server] = self._living.enter_context(ExitStack())
        url: str = self._servers[server].enter_context(server(self._folder / server.__name__, port=self._ports[server]))
        return url

    def stop(self, server: Any) -> None:
        if server is servers.valkey:
            info: Any = self.records.info("server")
            os.kill(int(info["process_id"]), signal.SIGKILL)
        self._servers[server].close()

    def worker(self, name: str, *, pace: float, **settings: float) -> "subprocess.Popen[bytes]":
        """Start a worker that takes ``pace`` seconds a step, and wait until it takes jobs."""
        chosen = {f"REDUXQ_WORKER__{setting.upper()}": str(value) for setting, value in settings.items()}
        worker = self._process(name, "tests.paced_worker", {"PACE": str(pace), "REDUXQ_WORKER__NAME": name} | chosen)
        wait_until(lambda: self.records.exists(f"worker:{name}") or worker.poll() is not None)
        return worker

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def accept(self, **parameters: Any) -> JobId:
        job = record(datetime.now(UTC), megapixels="0.25", **parameters)
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
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-m", module]
        return self._living.enter_context(servers.process(command, log, self._environment | more))
