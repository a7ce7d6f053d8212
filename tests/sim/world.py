"""Time, processes, and who goes on: greenlets that switch at every call of a server or of the clock."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Final

from greenlet import GreenletExit, getcurrent, greenlet

from shared.clock import Clock

EPOCH: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NEVER: Final = float("inf")
MOST_STEPS: Final = 100_000


class Stuck(Exception):
    """Nobody can ever go on, or the run takes longer than any should."""


class Actor(greenlet):
    """A thread of a process."""

    def __init__(self, process: "Process", name: str, work: Callable[[], None]) -> None:
        super().__init__(self._work, process.world.hub)
        self.process = process
        self.name = name
        self.until = 0.0  #: when it goes on, unless its event happens first
        self.event: Event | None = None
        self._task = work

    def _work(self) -> None:
        try:
            self._task()
        except GreenletExit:
            pass
        except BaseException as error:  # noqa: BLE001  nothing may hide
            self.process.world.failures.append(f"{self.name} died: {error!r}")
            self.process.world.errors.append(error)
        self.process.world.actors.remove(self)


class Process:
    """Actors that live and die together, with a wall clock of their own."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.doomed = False  #: dies at its next step, of its own doing
        self.frozen_until = 0.0
        self.cut_off_until = 0.0  #: from the records server
        self.clock = SimClock(world)
        self.on_death: list[Callable[[], None]] = []

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        assert self.alive, f"{self.name} is dead"  # nobody would ever let it go on, or away
        actor = Actor(self, f"{self.name}/{name}", work)
        self.world.actors.append(actor)
        return actor

    def kill(self) -> None:
        """End it in the middle of whatever it does; only the scheduler may."""
        self.alive = False
        for actor in [actor for actor in self.world.actors if actor.process is self]:
            if actor:
                actor.throw(GreenletExit)
            else:
                self.world.actors.remove(actor)
        for told in self.on_death:
            told()


class SimClock(Clock):
    """The world's time as one process sees it."""

    def __init__(self, world: "World") -> None:
        self.ahead = timedelta(0)  #: of the wall clock, which may jump
        self._world = world

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._world.time) + self.ahead

    def monotonic(self) -> float:
        return self._world.time

    def wait(self, event: Event, seconds: float) -> bool:
        self._world.wait(seconds, event)
        return event.is_set()


class World:
    """One course of events.

    Args:
        chosen: All chance in it.
    """

    def __init__(self, chosen: random.Random) -> None:
        self.random = chosen
        self.time = 0.0
        self.steps = 0
        self.actors: list[Actor] = []
        self.trace: list[tuple[float, str, str]] = []
        self.failures: list[str] = []  #: promises that were broken
        self.errors: list[BaseException] = []
        self.hub = getcurrent()

    def note(self, what: str) -> None:
        self.trace.append((self.time, self.acting(), what))

    def acting(self) -> str:
        """Return the name of the actor whose step this is."""
        current = getcurrent()
        return current.name if isinstance(current, Actor) else ""

    def wait(self, seconds: float, event: Event | None = None) -> None:
        """Let others go on until the time is over or the event happens."""
        actor = getcurrent()
        assert isinstance(actor, Actor)
        if not actor.process.alive:
            raise GreenletExit
        actor.until, actor.event = self.time + seconds, event
        self.hub.switch()

    def run(self, done: Callable[[], bool], disturb: Callable[[Actor], None], limit: float) -> None:
        """Let actors go on, one at a time, until all is done.

        Args:
            done: Says so.
            disturb: Is asked before each step, with the actor whose turn it is; it may kill or freeze.
            limit: Time at which it must be done.

        Raises:
            Stuck: If it is not.
        """
        while not done():
            now = self.time
            ready = [
                actor
                for actor in self.actors
                if (actor.until <= now or (actor.event and actor.event.is_set())) and actor.process.frozen_until <= now
            ]
            if not ready:
                self.time = min(map(_wakes_at, self.actors), default=NEVER)
                if self.time > limit:
                    raise Stuck(f"not done after {limit:g} s")
                continue
            if self.steps > MOST_STEPS:
                raise Stuck(f"not done after {MOST_STEPS} steps")
            actor = ready[0] if len(ready) == 1 else self.random.choice(ready)
            disturb(actor)
            if actor.process.alive and actor.process.frozen_until <= self.time:
                self.steps += 1
                actor.switch()


def _wakes_at(actor: Actor) -> float:
    """Return when an actor goes on that cannot now; one whose event happened waits for its process alone."""
    frozen = actor.process.frozen_until
    return frozen if actor.until < frozen or (actor.event and actor.event.is_set()) else actor.until
