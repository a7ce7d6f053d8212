"""A process that is stopped at each of its system calls, as strace does it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptrace import PtraceError
from ptrace.debugger import PtraceDebugger, PtraceProcess
from ptrace.func_call import FunctionCallOptions

SYNCS = {"fsync", "fdatasync"}


@contextmanager
def traced(pid: int) -> Iterator[PtraceProcess]:
    """Stop a process's main thread at each of its system calls, for the time of the block."""
    debugger = PtraceDebugger()
    process = debugger.addProcess(pid, is_attached=False)
    try:
        yield process
    finally:
        with suppress(PtraceError):  # one that was killed meanwhile
            debugger.quit()


def synced_next(valkey: PtraceProcess) -> bytes | None:
    """Let Valkey go on to its next stop; where it is about to sync its append-only file, return what that holds."""
    valkey.syscall()
    valkey.debugger.waitSyscall(valkey)
    call = valkey.syscall_state.event(FunctionCallOptions())
    if call.name not in SYNCS or call.result is not None:
        return None
    file = Path(f"/proc/{valkey.pid}/fd/{call.arguments[0].value}").readlink()
    assert file.suffix == ".aof"
    return file.read_bytes()
