"""Keeps the processes of one data folder alive."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from time import monotonic, sleep
from typing import Final

from rich.console import Console

from reduxq.local.folder import DataFolder
from reduxq.local.process import Part, Process, describe_end
from shared.errors import Unavailable

TICK: Final = timedelta(milliseconds=100)
START_ATTEMPTS: Final = 3  #: a part that ended so often before all were ready is given up
START_LIMIT: Final = timedelta(minutes=15)  #: real weights from a slow disk take minutes
STOP_LIMIT: Final = timedelta(seconds=15)  #: longer than any part's own grace period


class Supervisor:
    """Starts processes, starts them again when they die, and stops them in order."""

    def __init__(self, folder: DataFolder, console: Console, signals: Sequence[int]) -> None:
        self.starting = True  #: while it is, a part may be given up
        self._folder = folder
        self._console = console
        self._signals = signals
        self._processes: dict[str, Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def start(self, *parts: Part) -> None:
        """Start parts and keep them alive from now on."""
        for part in parts:
            log = self._folder.logs / f"{part.name}.log"
            self._processes[part.name] = Process(part, log, self._folder.lock)
        self._folder.note_pids(self.pids)

    def wait_for(self, signs: Mapping[str, Callable[[], bool]]) -> None:
        """Return when each named part has shown its sign of readiness.

        Raises:
            Unavailable: If a part ends again and again, or it takes too long.
            KeyboardInterrupt: If the user wants to stop.
        """
        deadline = monotonic() + START_LIMIT.total_seconds()
        for name, is_ready in signs.items():
            while not is_ready():
                if monotonic() > deadline:
                    raise Unavailable(f"{name} did not get ready; the logs are in {self._folder.logs}")
                self.tend()

    def tend(self) -> None:
        """Let a moment pass in which what has died is started again.

        Raises:
            Unavailable, KeyboardInterrupt: As :meth:`wait_for`.
        """
        if self._signals:
            raise KeyboardInterrupt
        sleep(TICK.total_seconds())
        for process in list(self._processes.values()):
            if (status := process.notice_end()) is not None:
                self._on_end(process, status)
            elif process.is_due:
                process.start()
                self._folder.note_pids(self.pids)
                self._console.print(f"{process.part.name} was started again as process {process.pid}")

    def stop(self, *names: str) -> None:
        """Ask these parts to stop, all at once, and see to it that they do."""
        stopping = [self._processes.pop(name) for name in names if name in self._processes]
        for process in stopping:
            process.terminate()
        deadline = monotonic() + STOP_LIMIT.total_seconds()
        for process in stopping:
            process.finish(deadline)

    def _on_end(self, process: Process, status: int) -> None:
        name, how = process.part.name, describe_end(status)
        if process.part.runs_once and status == 0:
            del self._processes[name]
            return
        self._console.print(
            f"{name} (process {process.pid}) {how}; its log {process.log} ends with:\n{process.log_tail()}"
        )
        if self.starting and (process.part.runs_once or process.ends >= START_ATTEMPTS):
            raise Unavailable(f"{name} {how} before it was ready; its log is {process.log}")
        if process.wait:
            self._console.print(f"{name} keeps ending; it is started again in {process.wait} s")
