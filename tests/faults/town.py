"""A small stack whose parts a test breaks: servers, API, dispatchers and paced workers, each a process of its own."""

import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from shared.connections import run
from shared.ids import JobId
from shared.job_index import COMPLETIONS
from shared.jobs import JobRecord
from shared.keys import create_key
from shared.teams import STARTING_CREDIT, list_teams
from tests import servers
from tests.faults.crew import Crew
from tests.faults.halts import Halts
from tests.faults.tally import Tally, stored_jobs, tally
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.stack import upload
from tests.yard import STORE, Yard

HALTING = {
    module: f"tests.faults.halting_{module.rpartition('.')[2]}" for module in ("worker", "api", "api.dispatcher")
}
QUICK = {  #: seconds, so that a fault is over soon
    "REDUXQ_JOBS__LEASE_SECONDS": "2",
    "REDUXQ_DISPATCHER__REPUBLISH_SECONDS": "1",
}


class Town(Yard):
    """A yard with an API; what dies is replaced, as an orchestrator would.

    Args:
        folder: For data and logs.
        living: Ends all of it.
        settings: Of all processes.
        workers: How many.
        pace: Seconds that a worker's model takes for a step.
    """

    def __init__(
        self,
        folder: Path,
        living: ExitStack,
        settings: Mapping[str, str] = QUICK,
        *,
        workers: int = 3,
        pace: float = 0.01,
    ) -> None:
        self.crew = Crew(folder, living)
        self.halts = Halts(folder / "halts")
        super().__init__(folder, living, settings)
        self._key = run(self.records, create_key("lab", "Ada"))
        self.accepted: list[JobId] = []
        self.api_url = self.add_api("api")
        for number in range(workers):
            name = f"worker-{number}"
            self._process(name, "worker", {"PACE": str(pace), "REDUXQ_WORKER__NAME": name})
        wait_until(lambda: self.warm() == workers and self.answers(), 60)
        self.source = upload(living.enter_context(self.client()), encoded(picture(), "PNG"))["key"]

    def _process(self, name: str, module: str, more: dict[str, str]) -> "subprocess.Popen[bytes]":
        environment = self.environment | self.halts.environment | more
        return self.crew.add(name, [HALTING.get(module, module)], environment)

    def add_api(self, name: str) -> str:
        """Start an API and return its URL."""
        port = servers.free_port()
        self._process(name, "api", {"REDUXQ_API__PORT": str(port)})
        return f"http://127.0.0.1:{port}"

    def client(self, timeout: float = 10) -> httpx.Client:
        return httpx.Client(base_url=self.api_url, headers={"API-KEY": self._key}, timeout=timeout)

    def answers(self) -> bool:
        """Say whether the API does, and all that it needs."""
        with suppress(httpx.TransportError), self.client() as client:
            return client.get("/readyz").is_success
        return False

    def warm(self) -> int:
        """Return how many workers say that they live."""
        return sum(bool(self.records.exists(f"worker:{name}")) for name in self.crew.named("worker"))

    def submit(self, key: str | None = None, **prompt: Any) -> JobId:
        """Submit as a careful client does: with a key, again and again until there is an answer."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        with self.client() as client:
            while True:
                with suppress(httpx.TransportError):
                    answer = client.post("/api/features", json=self.body(**prompt), headers=headers)
                    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                        job_id = JobId(answer.raise_for_status().json()["aiRecord"]["uuid"])
                        self.accepted.append(job_id)
                        return job_id
                time.sleep(0.1)

    def body(self, **prompt: Any) -> dict[str, Any]:
        few = {"megapixels": "0.25", "num_inference_steps": 10, "num_outputs": 2, "format": "png", "seed": 7}
        chosen = {"imageUrl": self.source} | few | prompt
        model = "black-forest-labs/flux-redux-dev"
        return {"type": "IMAGE_VARIATOR", "model": model, "promptObject": chosen, "async": True}

    def ended(self, job_id: JobId, seconds: float = 15) -> JobRecord:
        wait_until(lambda: self.stored(job_id).finished, seconds)
        return self.stored(job_id)

    def halted(self, phase: str) -> str:
        """Wait until a process stands still in this phase and return its name."""
        wait_until(lambda: self.halts.who(phase))
        return self.crew.name_of(self.halts.who(phase))

    def tally(self, told: Counter[str] | None = None) -> Tally:
        """Count what became of all jobs; ``told`` are the completion entries, which the server keeps 10,000 of."""
        if told is None:
            entries: Any = self.records.xrange(COMPLETIONS)
            told = Counter(fields["id"] for _, fields in entries)
        (lab,) = (team for team in run(self.records, list_teams()) if team.name == "lab")
        return tally(self.accepted, stored_jobs(self.records, STORE), told, self.objects, STARTING_CREDIT - lab.credit)
