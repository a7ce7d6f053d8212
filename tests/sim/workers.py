"""Workers without Celery and without a model."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import Any, Final, cast

from PIL import Image

from shared.completions import follow_endings
from shared.connections import run
from shared.errors import ShuttingDown
from shared.ids import JobId
from shared.images import Source
from shared.job_store import JobStore
from shared.jobs import JobRecord, ModelIdentity, Recipe
from shared.presence import WorkerLife
from shared.queue import AHEAD, QUEUE
from shared.transitions import Transition
from tests.sim.actors import Site
from tests.sim.servers import Broker
from tests.sim.world import Process
from worker.engine import Engine
from worker.lease import BEAT, HEED, LeaseKeeper
from worker.runner import Runner
from worker.work import Varied, Watch

MODEL: Final = ModelIdentity(base="base", redux="redux", trained=False, safety_checker="checker")
SIZE: Final = (2, 2)  #: pixels: what is in a picture is not the subject here
GRACE: Final = 3.0  #: seconds
POISON, INDECENT = 100, 200  #: seeds whose job kills its worker, or whose variations the safety checker flags


class SimEngine:
    """Takes its time for each step, one job at a time; a job may kill it."""

    def __init__(self, process: Process) -> None:
        self.speed = 0.0  #: TFLOP/s
        self._process = process
        self._world = process.world
        self._busy = False
        self._left = Event()

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()

    def vary(self, source: Source, recipe: Recipe, watch: Watch) -> Varied:
        while self._busy:
            self._left.clear()
            self._world.wait(60, self._left)
        self._busy = True
        try:
            for step in range(recipe.num_inference_steps):
                watch.check()
                self._world.wait(self._world.random.choice((0.1, 0.5, 1.5)))
                watch.tell([step + 1] * len(recipe.seeds), recipe.num_inference_steps)
                if POISON in recipe.seeds:
                    self._process.doomed = True
                    self._world.wait(0)
        finally:
            self._busy = False
            self._left.set()
        self.speed = 100.0
        return Varied([Image.new("RGB", SIZE, (seed % 256, 0, 0)) for seed in recipe.seeds], 1.0)


class Ordered(dict[Any, None]):
    """A set that is gone through in the order in which it was filled, the same in every run."""

    def add(self, member: Any) -> None:
        self[member] = None

    def discard(self, member: Any) -> None:
        self.pop(member, None)


class WorkerProcess(Process):
    """A worker without Celery: threads for slots and for what goes ahead take messages of their queues."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.world, name)
        self._site = site
        records, store = site.connect(self), JobStore(site.settings.jobs.lease_seconds)
        self._stopping, self._stop = Event(), Event()
        slots, ahead = site.settings.worker.slots, site.settings.worker.ahead
        self.busy = 0
        engine = SimEngine(self)

        def life() -> WorkerLife:
            return WorkerLife(slots, engine.speed, ahead)

        self.keeper = LeaseKeeper(records, store, self.clock, name=name, life=life)
        self.keeper._leases = cast("Any", Ordered())
        self._broker = cast("Broker", site.broker(self))

        def update(job_id: JobId, transition: Transition, known: JobRecord | None) -> JobRecord:
            return run(records, store.update(job_id, transition, known=known))

        self.runner = Runner(
            settings=site.settings,
            clock=self.clock,
            update=update,
            keeper=self.keeper,
            objects=site.objects(self),
            engine=cast("Engine", engine),
            score=lambda pictures: [float(picture.getpixel((0, 0)) == (INDECENT, 0, 0)) for picture in pictures],
            model=MODEL,
        )
        self.spawn("keeper", self._keep)
        self.spawn("endings", lambda: follow_endings(records, self.keeper.doubt, self.clock, self._stop, HEED))
        for slot in range(slots):
            self.spawn(f"slot {slot}", lambda: self._take([AHEAD, QUEUE]))
        for place in range(ahead):
            self.spawn(f"ahead {place}", lambda: self._take([AHEAD]))

    def _keep(self) -> None:
        while not self.clock.wait(self._stop, BEAT.total_seconds()):
            self.keeper.beat()

    def _take(self, queues: Sequence[str]) -> None:
        while not self._stopping.is_set():
            if taken := self._broker.take(queues, 2.0):
                job_id, queue = taken
                self.busy += 1
                self.runner.run(job_id, ahead=queue == AHEAD)
                self.busy -= 1

    @property
    def takes(self) -> bool:
        """Whether it lives and takes jobs."""
        return self.alive and self.frozen_until <= self.world.time and not self._stopping.is_set()

    def terminate(self, left: Callable[[], None]) -> None:
        """Do what SIGTERM makes a worker do, and say when nothing is left to do."""

        def leave() -> None:
            self._stopping.set()
            self.keeper.retire()
            until = self.world.time + GRACE
            while self.busy and self.world.time < until:
                self.world.wait(0.2)
            self.keeper.end_all(ShuttingDown())
            while self.busy:
                self.world.wait(0.2)
            self._stop.set()
            left()

        self.spawn("terminating", leave)
