"""One course of events: clients come, things break, then nothing breaks any more and everything must come right."""

import random
from datetime import timedelta
from functools import partial
from hashlib import sha256
from threading import Event
from typing import Final, NamedTuple

from api.sweeper import Sweeper
from shared.assets import Asset, keep
from shared.connections import run
from shared.programs import commit
from shared.settings import DispatcherSettings, JobsSettings, Settings, WorkerSettings
from tests.memory.clients import MemoryRedis
from tests.samples import fund
from tests.sim.actors import Site, deliver
from tests.sim.bundles import NUMBERS, Bundle, visit
from tests.sim.checks import CREDIT, Checks
from tests.sim.clients import CALLER, NAMED, PICTURE, Clients
from tests.sim.ending import check_end
from tests.sim.nemesis import Nemesis
from tests.sim.servers import Network, Records, Weather
from tests.sim.tamed import tamed
from tests.sim.world import EPOCH, NEVER, Process, SimClock, Stuck, World

SETTINGS: Final = Settings(
    jobs=JobsSettings(lease_seconds=timedelta(seconds=2), preview_teraflops=60),  # one step
    dispatcher=DispatcherSettings(republish_seconds=timedelta(seconds=3)),
    worker=WorkerSettings(slots=4, ahead=2, outage_seconds=timedelta(seconds=20)),
)
CALM_AT: Final = 20.0  #: seconds; from then on nothing breaks any more
LIMIT: Final = 400.0  #: seconds; everything has ended by then
IDLE: Final = 10.0  #: seconds: a lease, a message that is sent again, and timeouts that had begun before the calm
SWEPT_AFTER: Final = (700.0, 3700.0, 700.0)  #: seconds after which one round each removes what was left behind


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
    """One seed's world."""

    def __init__(self, seed: int) -> None:
        chosen = random.Random(seed)
        self.world = World(chosen)
        self.checks = Checks(self._fail)
        weather = Weather()
        network = Network(self.world, weather)
        server_clock = SimClock(self.world)
        records = Records(network, server_clock, self.checks)
        self.site = Site(self.world, network, SETTINGS, records, self.checks)
        self.nemesis = Nemesis(self.site, server_clock)
        self.clients = Clients(self.site, self.nemesis.api)
        self.bundles: dict[int, Bundle] = {}
        self._hasty_at = 0.0  #: when nobody idled last
        if not self.nemesis.gentle:
            rough = chosen.choice((0.0, 0.01, 0.03, 0.1))
            weather.records, weather.storage, weather.broker = (rough * chosen.choice((0, 1, 1, 3)) for _ in range(3))
            weather.slow = chosen.choice((0, 0.01, 0.05, 0.2))

    def run(self) -> None:
        self._prepare()
        self.nemesis.start()
        chosen, poison = self.world.random, not self.nemesis.gentle
        self.clients.come(chosen.randint(3, 7), poison=poison)
        for number in range(NUMBERS, NUMBERS + chosen.choice((0, 0, 1, 2))):
            bundle = Bundle.drawn(number, chosen, poison=poison)
            self.bundles[number] = bundle
            self.clients.begin(f"batch {number}", partial(visit, self.clients, bundle))
        try:
            self.world.run(self._all_ended, self.nemesis.disturb, LIMIT)
            self._sweep()
        except Stuck as stuck:
            states = {record["id"]: record["status"] for record in self.checks.records.values()}
            batches = self.checks.open_batches
            self._fail(f"stuck: {stuck}; clients that wait: {self.clients.open}; {states}; batches {batches}")
        self.nemesis.end()
        check_end(self.site, self.clients, self.bundles, gentle=self.nemesis.gentle)

    def _prepare(self) -> None:
        """Give the team credit and an image."""
        direct = MemoryRedis(self.site.records.execute)
        fund(direct, CREDIT, CREDIT)
        self.checks.bucket[NAMED] = PICTURE
        image = Asset(
            key=NAMED,
            team_id=CALLER.team_id,
            user_id=CALLER.user_id,
            content_type="image/png",
            size_bytes=len(PICTURE),
            created_at=EPOCH,
            stored=True,
        )
        run(direct, commit([], keep(image)))

    def _fail(self, what: str) -> None:
        self.world.note(f"FAILURE {what}")
        self.world.failures.append(what)

    def _all_ended(self) -> bool:
        self.nemesis.restart_due()
        self._require_haste()
        checks = self.checks
        ended = not (checks.open or checks.open_batches or self.clients.open or self.site.network.under_way)
        if not self.nemesis.calm and (ended or self.world.time >= CALM_AT):
            self.nemesis.calm_down()
        return self.nemesis.calm and ended

    def _require_haste(self) -> None:
        """Fail if a job waits for long while a worker has nothing to do and nothing breaks any more."""
        waits = self.nemesis.calm and any(record["status"] == "queued" for record in self.checks.records.values())
        if not waits or not self.nemesis.has_idle_worker():
            self._hasty_at = self.world.time
        elif self.world.time - self._hasty_at > IDLE + self.nemesis.set_back:
            self._hasty_at = NEVER
            self._fail(f"a job waits and a worker has been idle for {IDLE:g} s")

    def _sweep(self) -> None:
        """Let all processes go, much time pass, and a sweeper come."""
        self.nemesis.end()
        sweeping, swept = Process(self.world, "sweeping"), Event()
        sweeper = Sweeper(SETTINGS, self.site.connect(sweeping), self.site.objects(sweeping), sweeping.clock)

        def sweep() -> None:
            for seconds in SWEPT_AFTER:
                self.world.wait(seconds)
                sweeper.round()
            swept.set()

        sweeping.spawn("sweeper", sweep)
        told = (*self.checks.records.values(), *self.checks.batches.values())
        if any(record["deliveries"] for record in told):
            sweeping.spawn("webhooks", lambda: deliver(sweeping, self.site.deliverer(sweeping), swept, 60.0))
        self.world.run(swept.is_set, lambda _: None, self.world.time + 2 * sum(SWEPT_AFTER))


def run_course(seed: int) -> Outcome:
    """Let one seed's events happen."""
    course = Course(seed)
    world = course.world
    with tamed(world.random):
        course.run()
        for process in {actor.name: actor.process for actor in world.actors}.values():
            if process.alive:
                process.kill()
    told = "\n".join(f"{time:.6f} {who} {what}" for time, who, what in world.trace)
    fingerprint, jobs = sha256(told.encode()).hexdigest(), len(course.checks.records)
    failures, trace, faults = tuple(world.failures), tuple(world.trace), course.nemesis.faults
    return Outcome(seed, failures, fingerprint, world.steps, trace, jobs, faults)
