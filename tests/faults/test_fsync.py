"""An answer follows the fsync: seen in the system calls of Valkey, which is stopped while it makes them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ptrace.debugger import PtraceDebugger, PtraceProcess
from ptrace.func_call import FunctionCallOptions

from shared.keys import create_key
from shared.object_store import ObjectStore
from shared.programs import connect, run
from tests import servers
from tests.samples import encoded, picture
from tests.stack import feature, upload

HELD = 0.5  #: seconds that an fsync is held up


@contextmanager
def traced(pid: int) -> Iterator[PtraceProcess]:
    """Stop a process's main thread at each of its system calls."""
    debugger = PtraceDebugger()
    process = debugger.addProcess(pid, is_attached=False)
    try:
        yield process
    finally:
        debugger.quit()


def next_call(process: PtraceProcess) -> tuple[str, bool, int]:
    """Let the process go on to the next stop; return the call's name, whether it begins, and its first argument."""
    process.syscall()
    process.debugger.waitSyscall(process)
    call = process.syscall_state.event(FunctionCallOptions())
    return call.name, call.result is None, call.arguments[0].value if call.arguments else -1


@pytest.mark.slow
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_an_acceptance_is_answered_when_it_is_synced(
    tmp_path: Path, s3: str, objects: ObjectStore, appendfsync: str
) -> None:
    with servers.valkey(tmp_path / "valkey", appendfsync=appendfsync) as url, connect(url) as records:
        info: Any = records.info("server")
        environment = servers.settings_for(url, s3) | {"REDUXQ_RECORDS__DURABILITY": "managed"}
        headers = {"API-KEY": run(records, create_key("lab", "Ada"))}
        with (
            servers.api(tmp_path, environment) as api_url,
            httpx.Client(base_url=api_url, headers=headers, timeout=30) as client,
            ThreadPoolExecutor() as pool,
        ):
            source = upload(client, encoded(picture(), "PNG"))["key"]
            with traced(int(info["process_id"])) as valkey:
                asking = pool.submit(feature, client, source)
                synced = list(held_syncs(valkey, asking.done))
            accepted = asking.result()["uuid"].encode()
    if appendfsync == "always":
        assert any(accepted in written for written in synced)
    else:  # the answer did not wait, and this test can tell
        assert not any(accepted in written for written in synced)


def held_syncs(valkey: PtraceProcess, answered: Any) -> Iterator[bytes]:
    """Hold up each fsync until the client has an answer, and give what it syncs; none may answer the client."""
    while not answered():
        name, begins, descriptor = next_call(valkey)
        if name in {"fsync", "fdatasync"} and begins:
            file = Path(f"/proc/{valkey.pid}/fd/{descriptor}").readlink()
            assert file.suffix == ".aof"
            written = file.read_bytes()
            had_answer = answered()
            time.sleep(HELD)
            assert answered() == had_answer
            yield written
