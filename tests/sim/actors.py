"""The processes of the service, running the real code."""

from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, fields
from threading import Event
from typing import Any, Final, cast

from PIL import Image

from api.dispatcher import Dispatcher
from api.services import Services
from api.sweeper import Sweeper
from api.webhooks import Deliverer
from shared.completions import follow_endings
from shared.dispatch_store import WorkerLife
from shared.egress import Egress
from shared.errors import ReduxqError, ShuttingDown, Unavailable
from shared.ids import JobId
from shared.images import Source
from shared.job_store import JobStore
from shared.jobs import JobRecord, ModelIdentity, Recipe
from shared.programs import T, run
from shared.queue import LOW, PREVIEWS, QUEUE
from shared.queue import Broker as RealBroker
from shared.settings import Settings
from shared.transitions import Transition
from tests.memory.clients import AsyncMemoryRedis, MemoryRedis
from tests.sim.checks import Checks
from tests.sim.servers import Broker, Messages, Network, Objects, Receiver, Records
from tests.sim.world import Process, World
from worker.engine import Engine
from worker.lease import BEAT, LeaseKeeper
from worker.runner import Runner
from worker.work import Varied, Watch

MODEL: Final = ModelIdentity(base="base", redux="redux", trained=False, safety_checker="checker")
SIZE: Final = (2, 2)  #: pixels: what is in a picture is not the subject here
GRACE: Final = 3.0  #: seconds
POISON, INDECENT = 100, 200  #: seeds whose job kills its worker, or whose variations the safety checker flags


@dataclass
class Site:
    """What all processes share."""

    world: World
    network: Network
    settings: Settings
    records: Records
    checks: Checks
    messages: Messages = field(default_factory=Messages)
    heard: set[str] = field(default_factory=set)  #: ids of the webhook calls that were received

    def connect(self, process: Process) -> MemoryRedis:
        return MemoryRedis(lambda *command: self.records.ask(process, *command))

    def connect_async(self, process: Process) -> AsyncMemoryRedis:
        return AsyncMemoryRedis(lambda *command: self.records.ask(process, *command))

    def objects(self, process: Process) -> Objects:
        return Objects(self.network, process, self.checks.bucket, self.checks)

    def deliverer(self, process: Process) -> Deliverer:
        egress = cast("Egress", Receiver(self.network, self.heard))
        return Deliverer(self.settings, self.connect(process), egress, self.objects(process), process.clock)

    def broker(self, process: Process) -> RealBroker:
        return cast("RealBroker", Broker(self.network, process, self.messages))


class SimEngine:
    """Takes its time for each step, one job at a time; a job may kill it."""

    def __init__(self, process: Process) -> None:
        self.speed = 0.0  #: TFLOP/s
        self._process = process
        self._world = process.world
        self._busy = False
        self._left = Event()

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
    """A worker without Celery: threads for slots, low jobs and previews take messages of their queues."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.world, name)
        self._site = site
        records, store = site.connect(self), JobStore(site.settings.jobs.lease_seconds)
        self._stopping, self._stop = Event(), Event()
        slots, previews = site.settings.worker.slots, site.settings.worker.previews
        self.busy = 0
        engine = SimEngine(self)

        def life() -> WorkerLife:
            return WorkerLife(slots, engine.speed, previews, normal=slots)

        self.keeper = LeaseKeeper(records, store, self.clock, name=name, life=life)
        self.keeper._leases = cast("Any", Ordered())
        self._broker = cast("Broker", site.broker(self))

        def update(job_id: JobId, transition: Transition) -> JobRecord:
            return run(records, store.update(job_id, transition))

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
        self.spawn("endings", lambda: follow_endings(records, self.keeper.doubt, self.clock, self._stop))
        for slot in range(slots):
            self.spawn(f"slot {slot}", lambda: self._take([PREVIEWS, QUEUE]))
            self.spawn(f"low {slot}", lambda: self._take([LOW]))
        for place in range(previews):
            self.spawn(f"preview {place}", lambda: self._take([PREVIEWS]))

    def _keep(self) -> None:
        while not self.clock.wait(self._stop, BEAT.total_seconds()):
            self.keeper.beat()

    def _take(self, queues: Sequence[str]) -> None:
        while not self._stopping.is_set():
            job_id = self._broker.take(queues, 2.0)
            if job_id:
                self.busy += 1
                self.runner.run(job_id)
                self.busy -= 1

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


class Actors(Executor):
    """A pool of threads, each an actor of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, work: Callable[..., T], /, *given: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()

        def do_it() -> None:
            try:
                future.set_result(work(*given, **named))
            except Exception as error:  # noqa: BLE001  as a pool does
                future.set_exception(error)

        self._process.spawn("call", do_it)
        return future


class DispatcherProcess(Process):
    """A dispatcher with its sweeper and what calls webhooks."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.world, name)
        self.stop = Event()
        records = site.connect(self)
        dispatcher = Dispatcher(site.settings, records, site.broker(self), self.clock)
        sweeper = Sweeper(site.settings, records, site.objects(self), self.clock)
        self.spawn("dispatcher", lambda: dispatcher.run(self.stop))
        self.spawn("sweeper", lambda: sweeper.run(self.stop, dispatcher.name))
        self.spawn("webhooks", lambda: deliver(self, site.deliverer(self), self.stop, 2.0))


def deliver(process: Process, deliverer: Deliverer, stop: Event, pause: float) -> None:
    """Call webhooks until told to stop, as the deliverer does with a pool of its own."""
    pool = Actors(process)
    while not process.clock.wait(stop, pause):
        with suppress(Unavailable):
            deliverer.round(pool)


class SimServices(Services):
    """Services of an API whose event loop is the scheduler."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        return call()


class Call:
    """One request under way, as its client sees it."""

    def __init__(self) -> None:
        self.over = Event()
        self.result: Any = None
        self.error: ReduxqError | None = None

    def end(self, result: Any = None, error: ReduxqError | None = None) -> None:
        if not self.over.is_set():
            self.result, self.error = result, error
            self.over.set()


class ApiProcess(Process):
    """The API without HTTP."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.world, name)
        unused: dict[str, Any] = dict.fromkeys(each.name for each in fields(Services))
        self.services = SimServices(
            **unused
            | {
                "settings": site.settings,
                "records": site.connect_async(self),
                "jobs": JobStore(site.settings.jobs.lease_seconds),
                "objects": site.objects(self),
                "clock": self.clock,
            }
        )

    def request(self, name: str, route: Callable[[Services], Coroutine[Any, Any, Any]]) -> Call:
        """Begin to serve a request."""
        call = Call()
        self.on_death.append(lambda: call.end(error=Unavailable("the connection broke")))

        def serve() -> None:
            try:
                result = _drive(route(self.services))
            except ReduxqError as error:
                call.end(error=error)
            else:
                call.end(result)

        self.spawn(name, serve)
        return call


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; it never waits for an event loop, and lets others go on at every call."""
    while True:
        try:
            waits_for = coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        assert waits_for is None, "there is no event loop"
