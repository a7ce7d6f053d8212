"""One service under attack: clients that do not give up submit jobs, and everything published is followed."""

import itertools
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

from redis.exceptions import RedisError

from tests.chaos.nemesis import Nemesis
from tests.faults.crew import Crew
from tests.ground import Ground

CALLERS = 8
AHEAD = 150  #: jobs that may be open at a time, so that jobs are accepted, run and finished all the time
LULL = 10.0  #: seconds after which a client goes on all the same, for what was lost leaves no room
PATIENCE = 60.0  #: seconds without any end of a job after which those that are left count as lost or stuck


class Outcome(NamedTuple):
    """What became of all accepted jobs."""

    lost: int
    twice: int
    stuck: int
    also: dict[str, int]  #: other promises that were broken, and by how many jobs


@dataclass
class Row:
    """One service's line of the table."""

    name: str
    accepted: int
    outcome: Outcome
    seconds: float
    harms: Counter[str] = field(default_factory=Counter)
    died: Counter[str] = field(default_factory=Counter)


class Side(ABC):
    """A service as clients and nemesis see it."""

    name: str
    ground: Ground
    crew: Crew

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.told: Counter[str] = Counter()  #: how often each job was published

    @abstractmethod
    def ask(self, number: int) -> str | None:
        """Ask once for job ``number`` and return its id; None: no answer, so that the client must ask again."""

    @abstractmethod
    def follow(self) -> None:
        """Count in :attr:`told` what was published since the last call."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Look at all that there is when all is over."""

    def run(self, seed: int, *, jobs: int | None = None, seconds: float | None = None) -> Row:
        """Have so many jobs submitted, or for so long, under attack; then wait for the last and count."""
        began, calm, over = time.monotonic(), Event(), Event()
        nemesis = Nemesis(self.ground, self.crew)
        numbers = itertools.takewhile(lambda number: number < jobs if jobs else not calm.is_set(), itertools.count())
        with ThreadPoolExecutor(CALLERS + 2) as pool:
            threads = [pool.submit(self._follow_until, over), pool.submit(nemesis.rage, seed, calm)]
            calls = [pool.submit(self._call, numbers) for _ in range(CALLERS)]
            try:
                wait(calls, seconds, FIRST_EXCEPTION)
                calm.set()
                for call in calls:
                    call.result()
                threads[1].result()
                self._wait_for_the_last()
            finally:
                calm.set()
                over.set()
        for thread in threads:
            thread.result()
        self.follow()
        return Row(self.name, len(self.accepted), self.outcome(), time.monotonic() - began, nemesis.done, nemesis.died)

    def _call(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            until = time.monotonic() + LULL
            while len(self.accepted) - len(self.told) > AHEAD and time.monotonic() < until:
                time.sleep(0.02)
            while (job_id := self.ask(number)) is None:
                time.sleep(0.2)
            self.accepted.append(job_id)

    def _follow_until(self, over: Event) -> None:
        said = time.monotonic()
        while not over.wait(0.2):
            with suppress(RedisError):
                self.follow()
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"  {self.name}: {len(self.accepted)} accepted, {len(self.told)} published", flush=True)

    def _wait_for_the_last(self) -> None:
        ended, since = len(self.told), time.monotonic()
        while not set(self.accepted) <= set(self.told) and time.monotonic() - since < PATIENCE:
            time.sleep(0.2)
            self.crew.revive()
            if len(self.told) > ended:
                ended, since = len(self.told), time.monotonic()
