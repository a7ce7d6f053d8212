"""What waits, as the dispatcher last saw it, and what that means for one job's turn."""

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from shared.job_index import Queue
from shared.jobs import JobRecord, Lane
from shared.programs import Program

PLACE: Final = "dispatcher:backlog"
LASTS: Final = timedelta(seconds=30)  #: without a dispatcher nobody knows
WORKER_SPEED: Final = "dispatcher:worker_speed"
REMEMBERED: Final = timedelta(days=30)  #: the time without a worker after which it may be another kind of GPU
LANES: Final = tuple(Lane)  #: in the order of their turns


class Turn(NamedTuple):
    """When a job's turn comes, all else staying as it is."""

    position: int  #: 1 is next
    seconds: float | None  #: until it ends; None: nobody knows how fast the workers are


class Backlog(BaseModel):
    """All that is queued, and who works on it."""

    model_config = ConfigDict(frozen=True)

    waiting: Mapping[str, tuple[int, int]] = {}  #: jobs and TFLOP of each queue
    published: int = 0  #: jobs whose message is under way
    running: int = 0  #: jobs
    running_work: int = 0  #: TFLOP
    workers: int = 0
    slots: int = 0
    speed: float = 0.0  #: TFLOP/s of all workers together
    worker_speed: float = 0.0  #: TFLOP/s of one, when the last told it; 0: none ever did

    @property
    def speed_of_one(self) -> float:
        """TFLOP/s of a worker, be it of one that is there no more."""
        return self.speed / max(self.workers, 1) or self.worker_speed

    @property
    def _running_left(self) -> float:
        """TFLOP: jobs that a worker's engine has are half done, those that wait in its other slots have not begun."""
        return self.running_work * (1 - min(self.workers, self.running) / (2 * self.running)) if self.running else 0.0

    def turn(self, record: JobRecord, rank: int) -> Turn:
        """Return when a queued job's turn comes if ``rank`` jobs of its own queue go first.

        Teams take turns: before a team's k-th job of a lane, each other team has at most k of that lane.
        """
        mine, own = LANES.index(record.lane), str(Queue(record.lane, record.team_id))
        jobs = self.published + rank + 1
        work = self._running_left + record.parameters.work * jobs
        for name, (count, queued) in self.waiting.items():
            there = LANES.index(Lane(name.partition(":")[0]))
            if count and name != own and there <= mine:
                first = count if there < mine else min(count, rank + 1)
                jobs += first
                work += queued * first / count
        return Turn(jobs, round(work / self.speed, 1) if self.speed else None)

    def seconds_left(self, record: JobRecord, done: float) -> float | None:
        """Return how long a running job takes still, of whose steps this share is done."""
        if not self.speed:
            return None
        work = record.parameters.work
        others = max(0.0, self._running_left / self.workers - work) / 2  # those in front of it, if it has not begun
        return round((work * (1 - done) + (0.0 if done else others)) * self.workers / self.speed, 1)

    def desired_workers(self, target_wait: timedelta, most: int) -> int:
        """Return how many workers end within ``target_wait`` all that is there now, and never fewer than are busy.

        It is the work in GPU-seconds by the wait in seconds, rounded up, ``most`` at most. While no worker has told
        its speed those are unknown: then one is needed, and those that are there may be enough.
        """
        busy = min(self.running, max(self.workers, 1))
        if not self.running + self.published + sum(count for count, _ in self.waiting.values()):
            return 0
        needed = max(self.workers, 1)
        if each := self.speed_of_one:
            work = self._running_left + sum(work for _, work in self.waiting.values())
            needed = max(1, ceil(work / each / target_wait.total_seconds()))
        return max(busy, min(needed, most))

    @classmethod
    @lru_cache(maxsize=1)  # each job that is accepted until the next is told reads the same
    def parse(cls, text: str | None) -> Self:
        return cls.model_validate_json(text) if text else cls()


def put(backlog: Backlog) -> Program[None]:
    """Tell what waits."""
    yield ("SET", PLACE, backlog.model_dump_json(), "EX", int(LASTS.total_seconds()))
    if backlog.speed:
        yield ("SET", WORKER_SPEED, str(backlog.speed_of_one), "EX", int(REMEMBERED.total_seconds()))


def get() -> Program[Backlog | None]:
    """Return what waits; None if no dispatcher has told it lately."""
    text, each = yield [("GET", PLACE), ("GET", WORKER_SPEED)]
    return Backlog.parse(text).model_copy(update={"worker_speed": float(each or 0)}) if text else None
