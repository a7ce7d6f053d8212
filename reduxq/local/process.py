"""One process of the local stack."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Final

TETHER: Final = Path(__file__).with_name("tether.py")
QUICK: Final = timedelta(minutes=1)  #: a process that ends sooner than this has not recovered
WAITS: Final = (0, 1, 2, 4, 8, 16, 30)  #: seconds before the next start, after so many quick ends in a row
TAIL_LINES: Final = 10
TAIL_BYTES: Final = 4_000


@dataclass(frozen=True)
class Part:
    """How to run one part of the stack."""

    name: str
    command: tuple[str, ...]  #: everybody on this machine can read it: never a secret in it
    environment: Mapping[str, str]
    runs_once: bool = False  #: its end is no failure


class Process:
    """A part's process, in a session of its own, so that Ctrl-C does not reach it and its whole group can be ended.

    Only the main thread may start it: the tether tears when the thread ends that forked.
    """

    _popen: subprocess.Popen[bytes] | None  #: none between an end that was noticed and the next start

    def __init__(self, part: Part, log: Path, lock: int) -> None:
        self.part = part
        self.log = log
        self.ends = 0  #: how often in a row it has ended quickly, all by itself
        self.wait = 0  #: seconds between its last end and its next start
        self._lock = lock
        log.unlink(missing_ok=True)
        self.start()

    def notice_end(self) -> int | None:
        """Return the exit status (negative: a signal) of an end that was not noticed before, else None."""
        status = self._popen.poll() if self._popen else None
        if status is not None:
            self._kill_group()  # what is left of it may hold its port
            self._popen = None
            self.ends = self.ends + 1 if monotonic() - self._started_at < QUICK.total_seconds() else 1
            self.wait = WAITS[min(self.ends, len(WAITS)) - 1]
            self._due_at = monotonic() + self.wait
        return status

    @property
    def is_due(self) -> bool:
        """Whether its end was noticed and it has waited long enough to be started again."""
        return self._popen is None and monotonic() >= self._due_at

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._popen:
            self._popen.terminate()

    def finish(self, deadline: float) -> None:
        """Wait for its end until the deadline, then kill what is left of its group."""
        if self._popen is None:
            return  # it has ended, and its id may be somebody else's by now
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0.0, deadline - monotonic()))
        self._kill_group()
        self._popen.wait()

    def log_tail(self) -> str:
        """Return the last lines it wrote; nothing if somebody removed them."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    def start(self) -> None:
        """Start it, as its lock and its tether demand."""
        self._started_at = monotonic()
        tether = (sys.executable, "-I", "-S", str(TETHER), str(os.getpid()))
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                (*tether, *self.part.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.part.environment,
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        self.pid = self._popen.pid

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def describe_end(status: int) -> str:
    """Return an exit status in words."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
