"""The servers that all processes share, and the networks between: everything that can go wrong there does."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any, BinaryIO, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.connections import SOCKET_TIMEOUT
from shared.errors import EgressFailed, StorageUnavailable, Unavailable
from shared.ids import AssetKey, JobId
from shared.queue import QUEUES
from tests.memory.objects import MemoryObjects
from tests.memory.server import MemoryServer
from tests.sim.checks import Checks
from tests.sim.world import Process, SimClock, World

TIMEOUT: Final = SOCKET_TIMEOUT.total_seconds()
STORAGE_TIMEOUT: Final = 15.0  #: seconds
BROKER_TIMEOUT: Final = 5.0  #: seconds


@dataclass
class Weather:
    """How often calls go wrong."""

    records: float = 0.0  #: share of commands
    storage: float = 0.0  #: share of calls
    broker: float = 0.0  #: share of messages
    slow: float = 0.0  #: share of calls that take long, though not too long

    def calm(self) -> None:
        self.records = self.storage = self.broker = self.slow = 0.0


@dataclass
class Outage:
    """A server that nobody reaches for a while."""

    until: float
    hangs: bool  #: callers wait for their timeout instead of being refused at once


class Network:
    """What the processes' calls go through."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.outages: dict[str, Outage] = {}  #: by server
        self.nature = Process(world, "nature")  #: does what happens when nobody waits for it any more
        self.under_way = 0  #: of that, what is to come

    def unlucky(self) -> bool:
        """Say whether a call goes wrong that has no weather of its own."""
        weather = self.weather
        return self.world.random.random() < max(weather.records, weather.storage, weather.broker)

    def travel(self, what: str, patience: float) -> None:
        """Let the time of one way pass."""
        self.world.note(what)
        chosen = self.world.random
        draw = chosen.random()
        if draw < self.weather.slow:
            self.world.wait(chosen.uniform(0, 0.9 * patience))
        else:
            self.world.wait(0.0 if draw < 0.7 else chosen.uniform(0, 0.02))

    def outage(self, server: str) -> Outage | None:
        """Return a server's outage, if it has one now."""
        outage = self.outages.get(server)
        return outage if outage and self.world.time < outage.until else None

    def is_away(self, server: str, timeout: float) -> bool:
        """Say whether a server does not answer, after the time in which a caller finds out."""
        outage = self.outage(server)
        if outage and outage.hangs:
            self.world.wait(timeout)
        return outage is not None

    def later(self, what: str, act: Callable[[], Any]) -> None:
        """Do something that a caller gave up on."""

        def do_it() -> None:
            self.world.wait(self.world.random.uniform(0, 3))
            self.world.note(f"late: {what}")
            self.under_way -= 1
            act()

        self.under_way += 1
        self.nature.spawn("late", do_it)


class Records(MemoryServer):
    """The records server, whose every change is checked."""

    def __init__(self, network: Network, clock: SimClock, checks: Checks) -> None:
        super().__init__(clock)
        self._network = network
        self._checks = checks
        self.restarts = 0

    def do_hset(self, key: str, *fields: str) -> int:
        if key.startswith("job:") and "record" in fields:
            before, after = self.do_hget(key, "record"), fields[fields.index("record") + 1]
            self._checks.record_changed(key, before, after)
            if self.do_exists(key.replace("job:", "lease:")) and self._network.world.acting().startswith("dispatcher"):
                self._checks.taken_back(before, after)
        if key.startswith("batch:") and "record" in fields:
            self._checks.batch_changed(fields[fields.index("record") + 1])
        return super().do_hset(key, *fields)

    def do_xadd(self, key: str, *parts: str) -> str:
        self._checks.told(key, parts)
        return super().do_xadd(key, *parts)

    def do_eval(self, script: str, keys: str, guards: str, *told: str) -> int:
        place = super().do_eval(script, keys, guards, *told)
        if place == 0:
            self._checks.committed(self)
        return place

    def restart(self) -> None:
        self.restarts += 1
        self.run_id = f"run {self.restarts}"

    def ask(self, process: Process, *command: Any) -> Any:
        """Answer a process's command, as far as the network lets it."""
        network, chosen = self._network, self._network.world.random
        what = f"{command[0]} {command[1] if len(command) > 1 and command[0] != 'EVAL' else ''}"
        network.travel(what, TIMEOUT)
        self._refuse_perhaps(process, what, command)
        fault = chosen.choice(FAULTS) if chosen.random() < network.weather.records else ""
        if fault:
            network.world.note(f"{fault}: {what}")
        if fault == "refused":
            raise RedisConnectionError("simulated")
        if fault == "late":
            self._time_out(what, command)
        answer = self.execute(*command)
        if fault.endswith("resent"):  # as redis-py does when a connection breaks
            network.travel(f"again: {what}", TIMEOUT)
            answer = self.execute(*command)
        if fault.startswith("lost"):
            raise RedisConnectionError("simulated")
        if chosen.random() < 0.3:
            network.travel("answer", TIMEOUT / 2)
        return answer

    def _refuse_perhaps(self, process: Process, what: str, command: tuple[Any, ...]) -> None:
        network = self._network
        if network.world.time < process.cut_off_until:
            raise RedisConnectionError("simulated")
        outage = network.outage("records")
        if outage and outage.hangs:
            self._time_out(what, command)
        if outage:
            raise RedisConnectionError("simulated")

    def _time_out(self, what: str, command: tuple[Any, ...]) -> None:
        """Let the caller wait in vain; its command stands in the server's socket and may still be carried out."""
        network = self._network
        if command[0] not in BLOCKING and network.world.random.random() < 0.7:
            network.later(what, partial(self.execute, *command))
        network.world.wait(TIMEOUT)
        raise RedisTimeoutError("simulated")


BLOCKING: Final = frozenset({"BLPOP", "XREAD"})
FAULTS: Final = ("refused", "lost", "resent", "lost after resent", "late")


class Objects(MemoryObjects):
    """The bucket as one process reaches it."""

    def __init__(self, network: Network, process: Process, bucket: dict[AssetKey, bytes], checks: Checks) -> None:
        super().__init__()
        self.stored = bucket
        self._network = network
        self._process = process
        self._checks = checks

    def put(self, key: AssetKey, body: BinaryIO | bytes, content_type: str) -> str:
        data = body if isinstance(body, bytes) else body.read()
        self._checks.about_to_put(key)
        return str(self._call(f"put {key}", lambda: MemoryObjects.put(self, key, data, content_type)))

    def get(self, key: AssetKey) -> bytes:
        return bytes(self._call(f"get {key}", lambda: MemoryObjects.get(self, key)))

    def delete(self, key: AssetKey) -> None:
        def do_it() -> None:
            self._checks.about_to_delete(key)
            MemoryObjects.delete(self, key)

        self._call(f"delete {key}", do_it)

    def sign(self, key: AssetKey, lasts: timedelta | None = None, *, to_keep: bool = False) -> str:
        return self.location(key)

    def _call(self, what: str, act: Callable[[], Any]) -> Any:
        network, chosen = self._network, self._network.world.random
        network.travel(what, 1.0)
        if network.is_away("storage", STORAGE_TIMEOUT):
            raise StorageUnavailable("simulated")
        fault = chosen.choice(("refused", "lost", "late")) if chosen.random() < network.weather.storage else ""
        if fault:
            network.world.note(f"{fault}: {what}")
        if fault == "refused":
            raise StorageUnavailable("simulated")
        if fault == "late" and not what.startswith("get"):
            network.later(what, act)
            network.world.wait(STORAGE_TIMEOUT)
            raise StorageUnavailable("simulated")
        answer = act()
        network.travel("stored", 1.0)
        if fault:
            raise StorageUnavailable("simulated")
        return answer


class Receiver:
    """Where webhooks lead, as one process reaches it."""

    def __init__(self, network: Network, heard: set[str]) -> None:
        self._network = network
        self._heard = heard

    def check_webhook(self, url: str) -> None:
        """Every URL may be called."""

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        network = self._network
        network.travel(f"webhook {headers['webhook-id']}", 1.0)
        fault = network.world.random.choice(("refused", "busy", "lost")) if network.unlucky() else ""
        if fault == "busy":
            return 503
        if fault != "refused":
            self._heard.add(headers["webhook-id"])
        if fault:
            raise EgressFailed("simulated")
        return 200


@dataclass
class Messages:
    """What lies in the broker."""

    waiting: dict[str, deque[JobId]] = field(default_factory=lambda: {queue: deque() for queue in QUEUES})  #: by queue
    arrived: Event = field(default_factory=Event)


class Broker:
    """The broker as one process reaches it."""

    def __init__(self, network: Network, process: Process, messages: Messages) -> None:
        self._network = network
        self._process = process
        self._messages = messages

    def publish(self, jobs: Sequence[JobId], queue: str) -> None:
        for job_id in jobs:
            lost = self._lost(f"publish {job_id} in {queue}")
            if not lost or self._network.world.random.random() < 0.5:
                self._add(job_id, queue)
            if lost:
                raise Unavailable("simulated")

    def report_failure(self, job_id: JobId, reason: str) -> None:
        if self._lost(f"report {job_id}"):
            raise Unavailable("simulated")

    def waiting(self, queues: Iterable[str]) -> set[JobId]:
        if self._lost("waiting"):
            raise Unavailable("simulated")
        return {job_id for queue in queues for job_id in self._messages.waiting[queue]}

    def take(self, queues: Sequence[str], seconds: float) -> tuple[JobId, str] | None:
        """Return the next message of the first queue that has one, with that queue; None if none comes in time."""
        messages, world = self._messages, self._network.world
        if self._network.is_away("broker", seconds):
            world.wait(seconds)
            return None
        if not any(messages.waiting[queue] for queue in queues):
            messages.arrived.clear()
            world.wait(seconds, messages.arrived)
        queue = next((queue for queue in queues if messages.waiting[queue]), None)
        if queue is None:
            return None
        job_id = messages.waiting[queue].popleft()
        if world.random.random() < self._network.weather.broker:
            world.note(f"twice: {job_id}")
            self._add(job_id, queue)
        world.note(f"took {job_id}")
        return job_id, queue

    def _lost(self, what: str) -> bool:
        self._network.travel(what, 1.0)
        network = self._network
        return network.is_away("broker", BROKER_TIMEOUT) or network.world.random.random() < network.weather.broker

    def _add(self, job_id: JobId, queue: str) -> None:
        self._messages.waiting[queue].append(job_id)
        self._messages.arrived.set()
