import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from rich.console import Console

from reduxq.local.folder import DataFolder
from reduxq.local.process import Part, Process
from reduxq.local.signals import noted_signals
from reduxq.local.supervisor import Supervisor
from shared.errors import Unavailable
from tests.servers import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with DataFolder.locked(tmp_path) as folder:
        yield folder


@pytest.fixture
def output() -> StringIO:
    return StringIO()


@pytest.fixture
def signals() -> Iterator[list[int]]:
    with noted_signals() as signals:
        yield signals


@pytest.fixture
def supervisor(folder: DataFolder, output: StringIO, signals: list[int]) -> Iterator[Supervisor]:
    supervisor = Supervisor(folder, Console(file=output, soft_wrap=True), signals)
    yield supervisor
    supervisor.stop(*supervisor.pids)


def part(code: str, *, runs_once: bool = False) -> Part:
    return Part("part", (sys.executable, "-I", "-S", "-c", code), {}, runs_once=runs_once)


def test_a_part_that_dies_is_named_and_started_again(supervisor: Supervisor, output: StringIO) -> None:
    supervisor.starting = False
    supervisor.start(part("print('what happened', flush=True); import time; time.sleep(60)"))
    first = supervisor.pids["part"]
    log = supervisor._folder.logs / "part.log"
    wait_until(lambda: "what happened" in log.read_text())
    os.kill(first, SIGKILL)
    supervisor.wait_for({"part": lambda: supervisor.pids["part"] != first})
    assert (
        f"part (process {first}) was killed by SIGKILL; its log {log} ends with:\nwhat happened\n" in output.getvalue()
    )
    assert f"part was started again as process {supervisor.pids['part']}" in output.getvalue()


def test_a_part_that_never_gets_ready_ends_the_start(supervisor: Supervisor, output: StringIO) -> None:
    supervisor.start(part("raise SystemExit('no such thing')"))
    with pytest.raises(Unavailable, match=r"part ended with exit code 1 before it was ready; its log is .*part\.log"):
        supervisor.wait_for({"part": lambda: False})
    assert output.getvalue().count("ends with:") == 3


def test_what_runs_once_ends_the_start_at_its_first_failure(supervisor: Supervisor, output: StringIO) -> None:
    supervisor.start(part("raise SystemExit(3)", runs_once=True))
    with pytest.raises(Unavailable, match="part ended with exit code 3"):
        supervisor.wait_for({"part": lambda: False})
    assert output.getvalue().count("ends with:") == 1


def test_what_runs_once_leaves_when_it_is_done(supervisor: Supervisor) -> None:
    supervisor.start(part("", runs_once=True))
    supervisor.wait_for({"part": lambda: "part" not in supervisor.pids})


def test_waits_grow_when_a_part_keeps_dying(folder: DataFolder) -> None:
    process = Process(part("raise SystemExit(1)"), folder.logs / "part.log", folder.lock)
    waits = []
    for _ in range(9):
        wait_until(lambda: process.notice_end() is not None)
        waits.append(process.wait)
        process._due_at = 0
        assert process.is_due
        process.start()
    process.finish(0)
    assert waits == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_stopping_ends_the_whole_group_even_of_what_will_not_listen(
    supervisor: Supervisor, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    supervisor.start(part(f"{deaf}; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"))
    log = folder.logs / "part.log"
    wait_until(lambda: log.read_text().count("\n") == 2)
    monkeypatch.setattr("reduxq.local.supervisor.STOP_LIMIT", timedelta(milliseconds=100))
    supervisor.stop("part")
    wait_until(lambda: all(_is_gone(int(pid)) for pid in log.read_text().split()))


def test_a_signal_is_noted_and_stops_at_the_next_moment(supervisor: Supervisor, signals: list[int]) -> None:
    os.kill(os.getpid(), SIGTERM)
    assert signals == [SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        supervisor.tend()


def test_a_part_ends_with_the_supervisor_that_was_killed(folder: DataFolder) -> None:
    code = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from reduxq.local.process import Part, Process
part = Part("part", (sys.executable, "-c", "import time; time.sleep(60)"), dict(os.environ))
print(Process(part, Path({str(folder.path / "part.log")!r}), {folder.lock}).pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(folder.lock,)) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_until(
            lambda: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2:3] == [b"import time; time.sleep(60)"]
        )
        parent.kill()
    wait_until(lambda: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    return True
