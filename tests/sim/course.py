"""One course of events: clients come, things break, then nothing breaks any more and everything must come right."""

import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple

from shared.assets import Asset, keep
from shared.programs import commit, run
from shared.settings import DispatcherSettings, JobsSettings, Settings, WorkerSettings
from tests.memory.clients import MemoryRedis
from tests.samples import fund
from tests.sim.actors import ApiProcess, DispatcherProcess, Site, WorkerProcess
from tests.sim.checks import CREDIT, Checks, check_indices
from tests.sim.clients import CALLER, NAMED, PICTURE, Clients
from tests.sim.servers import Network, Outage, Records, Weather
from tests.sim.tamed import tamed
from tests.sim.world import EPOCH, Actor, Process, SimClock, Stuck, World

SETTINGS: Final = Settings(
    jobs=JobsSettings(lease_seconds=timedelta(seconds=2)),
    dispatcher=DispatcherSettings(republish_seconds=timedelta(seconds=3)),
    worker=WorkerSettings(slots=2, outage_seconds=timedelta(seconds=20)),
)
CALM_AT: Final = 20.0  #: seconds; from then on nothing breaks any more
LIMIT: Final = 400.0  #: seconds; everything has ended by then
SWEPT_AFTER: Final = (700.0, 3700.0, 700.0)  #: seconds after which one round each removes what is left behind


class Outcome(NamedTuple):
    """How a course ended."""

    seed: int
    failures: tuple[str, ...]
    fingerprint: str  #: SHA-256 of all that happened
    steps: int
    trace: tuple[tuple[float, str, str], ...]
    jobs: int
    faults: int


class Course:
    """One seed's processes and faults."""

    def __init__(self, seed: int) -> None:
        chosen = random.Random(seed)
        self.world = world = World(chosen)
        self.checks = Checks(self._fail)
        wild = (self._kill, self._freeze, self._cut, self._terminate, self._outage, self._restart_records)
        wild += (self._kill, self._freeze, self._cut, self._wipe, self._jump)
        #: After these no attempt may count as failed, as long as a worker does not have to go while the records are away.
        leaving, away = (
            (self._terminate, self._kill_others, self._wipe),
            (self._restart_records, self._refuse, self._wipe),
        )
        self.breaks = chosen.choice((wild, wild, wild, leaving, away))
        self.gentle = self.breaks is not wild
        rough = 0.0 if self.gentle else chosen.choice((0.0, 0.01, 0.03, 0.1))
        self.weather = Weather(
            *(rough * chosen.choice((0, 1, 1, 3)) for _ in range(3)),
            slow=0.01 if self.gentle else chosen.choice((0, 0.01, 0.05, 0.2)),
        )
        network = Network(world, self.weather)
        self.server_clock = SimClock(world)
        records = Records(network, self.server_clock, self.checks)
        self.site = Site(world, network, SETTINGS, records, self.checks)
        self.faults_left = chosen.choice((0, 2, 5, 10, 20, 40))
        self.fault_rate = chosen.choice((0.01, 0.02, 0.05))
        self.faults = 0
        self.makers: dict[str, Callable[[], Process]] = {
            "api": partial(ApiProcess, self.site, "api"),
            "dispatcher": partial(DispatcherProcess, self.site, "dispatcher"),
            "worker 1": partial(WorkerProcess, self.site, "worker 1"),
        }
        if chosen.random() < 0.8:
            self.makers["worker 2"] = partial(WorkerProcess, self.site, "worker 2")
        if chosen.random() < 0.4:
            self.makers["dispatcher 2"] = partial(DispatcherProcess, self.site, "dispatcher 2")
        self.processes: dict[str, Process | None] = {}
        self.restarts: list[tuple[float, str]] = []
        self.clients = Clients(self.site, self._api)
        self.calm = False

    def run(self) -> None:
        self._prepare()
        for name, make in self.makers.items():
            self.processes[name] = make()
        self.clients.come(self.world.random.randint(3, 7))
        try:
            self.world.run(self._all_ended, self._disturb, LIMIT)
            self._sweep()
        except Stuck as stuck:
            states = {record["id"]: record["status"] for record in self.checks.records.values()}
            self._fail(f"stuck: {stuck}; clients that wait: {self.clients.open}; {states}")
        self._check_end()

    def _prepare(self) -> None:
        direct = MemoryRedis(self.site.records.execute)
        fund(direct, CREDIT, CREDIT)
        self.checks.bucket[NAMED] = PICTURE
        named = Asset(
            key=NAMED,
            team_id=CALLER.team_id,
            user_id=CALLER.user_id,
            content_type="image/png",
            size_bytes=len(PICTURE),
            created_at=EPOCH,
            stored=True,
        )
        run(direct, commit([], keep(named)))

    def _api(self) -> ApiProcess | None:
        api = self.processes.get("api")
        return api if isinstance(api, ApiProcess) and api.alive else None

    def _fail(self, what: str) -> None:
        self.world.note(f"FAILURE {what}")
        self.world.failures.append(what)

    def _all_ended(self) -> bool:
        self._restart_due()
        ended = not self.checks.open and not self.clients.open
        if not self.calm and (ended or self.world.time >= CALM_AT):
            self._calm_down()
        return self.calm and ended

    def _restart_due(self) -> None:
        for entry in [entry for entry in self.restarts if entry[0] <= self.world.time]:
            self.restarts.remove(entry)
            self.processes[entry[1]] = self.makers[entry[1]]()

    # Faults

    def _disturb(self, actor: Actor) -> None:
        """Perhaps let something break before this actor's next step."""
        if self.calm or not self.faults_left or self.world.random.random() >= self.fault_rate:
            return
        if actor.process.name not in self.processes or not (self.checks.open or actor.process.name == "api"):
            return  # when there is nothing to break
        self.faults_left -= 1
        self.faults += 1
        chosen = self.world.random
        busy = [process for process in self.processes.values() if isinstance(process, WorkerProcess) and process.busy]
        process = chosen.choice(busy) if busy and chosen.random() < 0.6 else actor.process
        chosen.choice(self.breaks)(process)

    def _kill(self, process: Process) -> None:
        if self.processes.get(process.name) is not process:
            return
        self.world.note(f"FAULT kill {process.name}")
        process.kill()
        self._bring_back(process)

    def _kill_others(self, _: Process) -> None:
        """Kill a process that is no worker."""
        others = [process for process in self.processes.values() if process and not isinstance(process, WorkerProcess)]
        if others:
            self._kill(self.world.random.choice(others))

    def _bring_back(self, process: Process) -> None:
        self.processes[process.name] = None
        self._timer(self.world.random.choice((0.2, 2.0, 6.0)), process.name)

    def _timer(self, seconds: float, name: str) -> None:
        at = self.world.time + seconds
        self.restarts.append((at, name))
        self.site.network.nature.spawn(f"restart {name}", lambda: self.world.wait(seconds))

    def _freeze(self, process: Process) -> None:
        seconds = self.world.random.uniform(1.5, 8)
        self.world.note(f"FAULT freeze {process.name} for {seconds:.3f} s")
        process.frozen_until = self.world.time + seconds

    def _cut(self, process: Process) -> None:
        seconds = self.world.random.uniform(1.5, 8)
        self.world.note(f"FAULT {process.name} cut off from the records for {seconds:.3f} s")
        process.cut_off_until = self.world.time + seconds

    def _terminate(self, process: Process) -> None:
        if self.processes.get(process.name) is not process:
            return
        self.world.note(f"FAULT terminate {process.name}")
        if isinstance(process, WorkerProcess):
            process.terminate(lambda: self._left(process))
        elif isinstance(process, DispatcherProcess):
            process.stop.set()
            self._bring_back(process)

    def _left(self, process: Process) -> None:
        """Let a process be gone whose work is done."""
        if self.processes.get(process.name) is process:
            self._bring_back(process)

    def _refuse(self, _: Process) -> None:
        self._away("records", hangs=False)

    def _outage(self, _: Process) -> None:
        chosen = self.world.random
        self._away(chosen.choice(("records", "storage", "broker")), hangs=chosen.random() < 0.5)

    def _away(self, name: str, *, hangs: bool) -> None:
        seconds = self.world.random.choice((1.0, 3.0, 10.0))
        self.world.note(f"FAULT {name} away for {seconds} s")
        self.site.network.outages[name] = Outage(self.world.time + seconds, hangs)

    def _restart_records(self, _: Process) -> None:
        self.world.note("FAULT records restart")
        self.site.records.restart()
        until = self.world.time + self.world.random.choice((0.3, 2.5, 5.0))
        self.site.network.outages["records"] = Outage(until, hangs=False)

    def _wipe(self, _: Process) -> None:
        self.world.note("FAULT broker wiped")
        self.site.messages.waiting.clear()

    def _jump(self, process: Process) -> None:
        seconds = self.world.random.choice((-90.0, -2.0, 2.0, 90.0))
        clock, name = self.world.random.choice(((process.clock, process.name), (self.server_clock, "records")))
        self.world.note(f"FAULT clock of {name} jumps by {seconds} s")
        clock.ahead += timedelta(seconds=seconds)

    def _calm_down(self) -> None:
        self.world.note("calm")
        self.calm = True
        self.weather.calm()
        for outage in self.site.network.outages.values():
            outage.until = 0.0

    # The end

    def _sweep(self) -> None:
        """Let all processes go, much time pass, and a sweeper come."""
        for process in self.processes.values():
            if process and process.alive:
                process.kill()
        self.restarts.clear()
        for seconds in SWEPT_AFTER:
            self.world.time += seconds
            sweeping = Process(self.world, "sweeping")
            dispatcher = DispatcherProcess(self.site, "sweeping")
            dispatcher.kill()
            done: list[bool] = []
            dispatcher.alive = True
            dispatcher.spawn("sweep", lambda: done.append(bool(dispatcher.sweeper.round()) or True))
            self.world.run(lambda: bool(done), lambda _: None, self.world.time + 100)
            del sweeping

    def _check_end(self) -> None:
        records = self.site.records
        require = self.checks.require
        for error in self.world.errors:
            if not isinstance(error, Exception):
                raise error
        stored = self.checks.records
        for job_id, number in self.clients.accepted.items():
            require(job_id in stored, f"{job_id} of order {number} was accepted and is lost")
        for job_id, record in stored.items():
            require(self.checks.told_ends[job_id] == self.checks.ends[job_id], f"{job_id}: completions")
            failure = record["failure"] and record["failure"]["code"]
            require(failure in {None, "CANCELED", "TOO_MANY_ATTEMPTS"}, f"{job_id} failed: {record['failure']}")
            if self.gentle:
                require(not record["failed_attempts"], f"{job_id}: an attempt failed though nothing broke")
        self._check_orders(stored)
        check_indices(records, self._fail)
        self._check_objects(stored)

    def _check_orders(self, stored: dict[str, dict[str, Any]]) -> None:
        """Require of each order that it made one job, where a key or a retry says that it is one."""
        jobs: dict[int, set[str]] = {}
        for job_id, record in stored.items():
            jobs.setdefault(int(record["echo"]["request_id"]), set()).add(job_id)
        for number, order in self.clients.orders.items():
            made = len(jobs.get(number, ()))
            self.checks.require(order.how == "retried" or made <= 1, f"order {number} made {made} jobs")

    def _check_objects(self, stored: dict[str, dict[str, Any]]) -> None:
        owned = {NAMED}
        for job_id, record in stored.items():
            used = {variation["key"] for variation in record["variations"]}
            used |= set() if record["erased_at"] else {record["parameters"]["source"]}
            gone = set() if job_id in self.checks.deleting else used - self.checks.bucket.keys()
            self.checks.require(not gone, f"{job_id}: objects are gone: {sorted(gone)}")
            owned |= used
        assets = {key.removeprefix("asset:") for key in self.site.records.data if key.startswith("asset:")}
        for key in self.checks.bucket:
            self.checks.require(key in owned | assets, f"nobody owns {key}")


def run_course(seed: int) -> Outcome:
    """Let one seed's events happen."""
    course = Course(seed)
    with tamed(course.world.random):
        course.run()
        for process in [actor.process for actor in course.world.actors]:
            if process.alive:
                process.kill()
    world = course.world
    told = "\n".join(f"{time:.6f} {who} {what}" for time, who, what in world.trace)
    fingerprint = sha256(told.encode()).hexdigest()
    failures, trace = tuple(world.failures), tuple(world.trace)
    return Outcome(seed, failures, fingerprint, world.steps, trace, len(course.checks.records), course.faults)
