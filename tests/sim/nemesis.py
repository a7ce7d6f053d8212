"""What breaks, and when: drawn before each step, for the process whose step it is or for a worker in mid-job."""

from bisect import insort
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final

from tests.sim.actors import ApiProcess, DispatcherProcess, Site
from tests.sim.servers import Outage
from tests.sim.workers import WorkerProcess
from tests.sim.world import Actor, Process, SimClock

Break = Callable[[Process], None]
RESTARTED_AFTER: Final = (0.2, 2.0, 6.0)  #: seconds


class Nemesis:
    """Starts the processes, breaks them and the servers, and brings them back."""

    def __init__(self, site: Site, server_clock: SimClock) -> None:
        chosen = site.world.random
        self.site = site
        self._server_clock = server_clock
        self._world = site.world
        self._makers: dict[str, Callable[[], Process]] = {
            "api": partial(ApiProcess, site, "api"),
            "dispatcher": partial(DispatcherProcess, site, "dispatcher"),
            "worker 1": partial(WorkerProcess, site, "worker 1"),
        }
        if chosen.random() < 0.8:
            self._makers["worker 2"] = partial(WorkerProcess, site, "worker 2")
        if chosen.random() < 0.4:
            self._makers["dispatcher 2"] = partial(DispatcherProcess, site, "dispatcher 2")
        self.processes: dict[str, Process | None] = {}
        self._restarts: list[tuple[float, str]] = []
        wild: list[Break] = [self._kill, self._freeze, self._cut] * 2
        wild += [self._terminate, self._outage, self._restart_records, self._wipe, self._jump]
        leaving: list[Break] = [self._terminate, self._kill_other, self._wipe]
        away: list[Break] = [self._restart_records, self._refuse, self._kill_other, self._wipe]
        self._breaks = chosen.choice((wild, wild, wild, leaving, away))
        #: Nothing happens after which an attempt may count as failed. (A worker that must go while the records are
        #: away cannot hand its job back: then one may.)
        self.gentle = self._breaks is not wild
        self._left = chosen.choice((0, 2, 5, 10, 20, 40))  #: things that may still break
        self._rate = chosen.choice((0.01, 0.02, 0.05))
        self.faults = 0
        self.set_back = 0.0  #: seconds that the records' clock was; so much longer what lapses by it may stay
        self.calm = False

    def start(self) -> None:
        for name, make in self._makers.items():
            self.processes[name] = make()

    def api(self) -> ApiProcess | None:
        api = self.processes.get("api")
        return api if isinstance(api, ApiProcess) else None

    def has_idle_worker(self) -> bool:
        """Say whether a worker that takes jobs has none."""
        workers = [worker for worker in self.processes.values() if isinstance(worker, WorkerProcess)]
        return any(worker.takes and not worker.busy for worker in workers)

    def restart_due(self) -> None:
        """Start again what was killed or went away some time ago."""
        while self._restarts and self._restarts[0][0] <= self._world.time:
            _, name = self._restarts.pop(0)
            self.processes[name] = self._makers[name]()

    def disturb(self, actor: Actor) -> None:
        """Perhaps let something break before this actor's next step."""
        process, chosen = actor.process, self._world.random
        if process.doomed:
            process.doomed = False
            self._kill(process)
            return
        if self.calm or not self._left or chosen.random() >= self._rate or process.name not in self.processes:
            return
        if not self.site.checks.open and process.name != "api":
            return  # there is nothing to break
        self._left -= 1
        self.faults += 1
        busy = [worker for worker in self.processes.values() if isinstance(worker, WorkerProcess) and worker.busy]
        chosen.choice(self._breaks)(chosen.choice(busy) if busy and chosen.random() < 0.6 else process)

    def calm_down(self) -> None:
        """Let nothing break any more."""
        self._note("nothing from here on")
        self.calm = True
        self.site.network.weather.calm()
        self.site.network.outages.clear()

    def end(self) -> None:
        """Let all processes go for good."""
        self._restarts.clear()
        for process in self.processes.values():
            if process and process.alive:
                process.kill()

    def _note(self, what: str) -> None:
        self._world.note(f"FAULT {what}")

    def _kill(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            self._note(f"kill {process.name}")
            process.kill()
            self._bring_back(process)

    def _kill_other(self, _: Process) -> None:
        """Kill a process that is no worker."""
        others = [other for other in self.processes.values() if other and not isinstance(other, WorkerProcess)]
        if others:
            self._kill(self._world.random.choice(others))

    def _bring_back(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            seconds = self._world.random.choice(RESTARTED_AFTER)
            self.processes[process.name] = None
            insort(self._restarts, (self._world.time + seconds, process.name))
            self.site.network.nature.spawn("restart", lambda: self._world.wait(seconds))

    def _freeze(self, process: Process) -> None:
        seconds = self._world.random.uniform(1.5, 8)
        self._note(f"freeze {process.name} for {seconds:.3f} s")
        process.frozen_until = self._world.time + seconds

    def _cut(self, process: Process) -> None:
        seconds = self._world.random.uniform(1.5, 8)
        self._note(f"{process.name} cut off from the records for {seconds:.3f} s")
        process.cut_off_until = self._world.time + seconds

    def _terminate(self, process: Process) -> None:
        self._note(f"terminate {process.name}")
        if isinstance(process, WorkerProcess):
            process.terminate(lambda: self._bring_back(process))
        elif isinstance(process, DispatcherProcess):
            process.stop.set()
            self._bring_back(process)

    def _refuse(self, _: Process) -> None:
        self._away("records", hangs=False)

    def _outage(self, _: Process) -> None:
        chosen = self._world.random
        self._away(chosen.choice(("records", "storage", "broker")), hangs=chosen.random() < 0.5)

    def _away(self, server: str, *, hangs: bool) -> None:
        seconds = self._world.random.choice((0.3, 1.0, 3.0, 10.0))
        self._note(f"{server} away for {seconds} s")
        self.site.network.outages[server] = Outage(self._world.time + seconds, hangs)

    def _restart_records(self, _: Process) -> None:
        self._note("restart of the records server")
        self.site.records.restart()
        self._away("records", hangs=False)

    def _wipe(self, _: Process) -> None:
        self._note("broker wiped")
        for queue in self.site.messages.waiting.values():
            queue.clear()

    def _jump(self, process: Process) -> None:
        seconds = self._world.random.choice((-90.0, -2.0, 2.0, 90.0))
        clock, whose = self._world.random.choice(((process.clock, process.name), (self._server_clock, "the records")))
        self._note(f"clock of {whose} jumps by {seconds} s")
        clock.ahead += timedelta(seconds=seconds)
        if clock is self._server_clock:
            self.set_back += max(0.0, -seconds)
