"""The processes of the service, running the real code."""

from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, fields
from threading import Event
from typing import Any, Self, cast

from api.batch_feeder import Feeder
from api.dispatcher import Dispatcher
from api.services import Services
from api.sweeper import Sweeper
from api.webhooks import Deliverer
from shared.egress import Egress
from shared.errors import ReduxqError, Unavailable
from shared.job_store import JobStore
from shared.programs import T
from shared.queue import Broker as RealBroker
from shared.settings import Settings
from tests.memory.clients import AsyncMemoryRedis, MemoryRedis
from tests.sim.checks import Checks
from tests.sim.servers import Broker, Messages, Network, Objects, Receiver, Records
from tests.sim.world import Process, World


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


class Actors(Executor):
    """A pool of threads, each an actor of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.ended = Event()  #: is set by each call that ends

    def submit(self, work: Callable[..., T], /, *given: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()

        def do_it() -> None:
            try:
                future.set_result(work(*given, **named))
            except Exception as error:  # noqa: BLE001  as a pool does
                future.set_exception(error)
            self.ended.set()

        self._process.spawn("call", do_it)
        return future


class DispatcherProcess(Process):
    """A dispatcher with its feeder, its sweeper and what calls webhooks."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.world, name)
        self.stop = Event()
        records = site.connect(self)
        dispatcher = Dispatcher(site.settings, records, site.broker(self), self.clock)
        sweeper = Sweeper(site.settings, records, site.objects(self), self.clock)
        feeder = Feeder(site.settings)
        services = SimServices.of(site, self, feeder.settings)
        self.spawn("dispatcher", lambda: dispatcher.run(self.stop))
        self.spawn("feeder", lambda: _drive(feeder.feed(services, self.stop, dispatcher.name)))
        self.spawn("sweeper", lambda: sweeper.run(self.stop, dispatcher.name))
        self.spawn("webhooks", lambda: deliver(self, site.deliverer(self), self.stop, 2.0))


def deliver(process: Process, deliverer: Deliverer, stop: Event, pause: float) -> None:
    """Call webhooks until told to stop, as the deliverer does with a pool of its own."""
    pool = Actors(process)
    while not process.clock.wait(stop, pause):
        with suppress(Unavailable):
            deliverer.round(pool)


@dataclass(frozen=True, kw_only=True)
class SimServices(Services):
    """Services of a process whose event loop is the scheduler."""

    process: Process

    @classmethod
    def of(cls, site: Site, process: Process, settings: Settings) -> Self:
        unused: dict[str, Any] = dict.fromkeys(each.name for each in fields(Services))
        known = {
            "settings": settings,
            "records": site.connect_async(process),
            "jobs": JobStore(settings.jobs.lease_seconds),
            "objects": site.objects(process),
            "egress": Receiver(site.network, site.heard),
            "clock": process.clock,
        }
        return cls(**unused | known, process=process)

    async def in_thread(self, call: Callable[[], T]) -> T:
        return call()

    async def sleep(self, seconds: float) -> None:
        self.process.world.wait(seconds)

    async def gather(self, calls: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[T | BaseException]:
        pool = Actors(self.process)
        ends = [pool.submit(lambda call=call: _drive(call())) for call in calls]
        while not all(end.done() for end in ends):
            self.process.world.wait(60, pool.ended)
            pool.ended.clear()
        return [end.exception() or end.result() for end in ends]

    def beside(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.process.spawn("beside", lambda: _drive(call()))


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
        self.services = SimServices.of(site, self, site.settings)

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
