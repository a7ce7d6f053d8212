"""Plain Celery under attack."""

from contextlib import ExitStack
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.connections import connect
from shared.errors import NotFound
from shared.ids import AssetKey
from tests.chaos import PUBLISHED, SOURCE
from tests.chaos.side import Outcome, Side
from tests.faults.crew import Crew
from tests.ground import Ground
from tests.samples import encoded, picture

WORKERS = 3


class Peer(Side):
    """Three workers; clients publish to the broker themselves."""

    name = "plain Celery"

    def __init__(self, folder: Path, living: ExitStack) -> None:
        super().__init__()
        self.ground = Ground(folder, living)
        self.ground.objects.put(SOURCE, encoded(picture(), "PNG"), "image/png")
        self.crew = Crew(folder, living)
        for number in range(WORKERS):
            name = f"worker-{number}"
            command = ["celery", "-A", "tests.chaos.plain", "worker", "--concurrency", "1", "--hostname", name]
            self.crew.add(name, command, self.ground.environment)
        self._app = Celery(broker=self.ground.environment["REDUXQ_BROKER__URL"], set_as_current=False)
        self._app.conf.broker_transport_options = {"socket_timeout": 5}
        self._seen = 0

    def ask(self, number: int) -> str | None:
        job_id = str(uuid5(NAMESPACE_OID, str(number)))
        try:
            self._app.send_task("vary", args=(job_id,), task_id=job_id, retry=False)
        except (OperationalError, RedisError):
            return None
        return job_id

    def follow(self) -> None:
        fresh = self.ground.records.lrange(PUBLISHED, self._seen, -1)
        self._seen += len(fresh)
        self.told.update(map(str, fresh))

    def outcome(self) -> Outcome:
        missing = set(self.accepted) - set(self.told)
        there = self._messages()
        stuck = sum(job_id in there for job_id in missing)
        unreadable = sum(not self._is_there(job_id) for job_id in self.told)
        twice = sum(times > 1 for times in self.told.values())
        return Outcome(len(missing) - stuck, twice, stuck, {"unreadable": unreadable} if unreadable else {})

    def _messages(self) -> str:
        """Return everything that the broker still has, as one text."""
        with connect(self.ground.environment["REDUXQ_BROKER__URL"]) as broker:
            waiting, unacknowledged = broker.lrange("celery", 0, -1), broker.hvals("unacked")
        return "".join(map(str, [*waiting, *unacknowledged]))

    def _is_there(self, job_id: str) -> bool:
        try:
            return bool(self.ground.objects.get(AssetKey(f"images/{job_id}.png")))
        except NotFound:
            return False
