"""Who breaks things: by a plan that is drawn from a seed, whatever it is let loose on."""

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from threading import Event
from typing import NamedTuple

from tests import servers
from tests.faults.crew import Crew
from tests.ground import Ground

#: What it does, and how often beside the others.
WEIGHTS = {
    "kill worker": 5,
    "freeze worker": 3,
    "kill api": 2,
    "freeze api": 1,
    "kill dispatcher": 2,
    "freeze dispatcher": 1,
    "kill valkey": 2,
    "freeze valkey": 1,
    "reset connections": 2,
}


class Harm(NamedTuple):
    """One thing to do."""

    after: float  #: seconds of peace before it
    what: str
    target: int  #: number of the part, counted round
    lasts: float  #: seconds, of a freeze


def plan(seed: int) -> Iterator[Harm]:
    """Draw harms without end, the same for the same seed."""
    drawn = random.Random(seed)
    while True:
        what = drawn.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        yield Harm(drawn.uniform(0.3, 1.5), what, drawn.randrange(6), drawn.uniform(1, 4))


class Nemesis:
    """Harms a ground and the crew on it; what dies is replaced at once."""

    def __init__(self, ground: Ground, crew: Crew) -> None:
        self.done: Counter[str] = Counter()
        self.died: Counter[str] = Counter()  #: last lines of parts that ended without being killed
        self._ground = ground
        self._crew = crew

    def rage(self, seed: int, stop: Event) -> None:
        """Follow the plan until told to stop."""
        for harm in plan(seed):
            if stop.wait(harm.after):
                return
            self.died.update(self._ground.log(name).splitlines()[-1] for name in self._crew.revive())
            if self._do(harm, stop):
                self.done[harm.what] += 1
            self._crew.revive()

    def _do(self, harm: Harm, stop: Event) -> bool:
        """Do harm; False if there is nothing of that kind."""
        verb, _, kind = harm.what.partition(" ")
        if kind == "valkey":
            self._kill_valkey() if verb == "kill" else self._freeze_valkey(harm.lasts, stop)
            return True
        if kind == "connections":
            self._ground.records.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            return True
        names = self._crew.named(kind)
        if not names:
            return False
        name = names[harm.target % len(names)]
        if verb == "kill":
            self._crew.kill(name)
        else:
            self._crew.freeze(name)
            stop.wait(harm.lasts)
            self._crew.thaw(name)
        return True

    def _kill_valkey(self) -> None:
        self._ground.stop(servers.valkey)
        self._ground.serve(servers.valkey)

    def _freeze_valkey(self, seconds: float, stop: Event) -> None:
        pid = self._ground.valkey_pid()
        os.kill(pid, signal.SIGSTOP)
        stop.wait(seconds)
        os.kill(pid, signal.SIGCONT)
