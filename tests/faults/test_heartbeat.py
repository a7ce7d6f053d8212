"""The file by which supervisors see that a worker lives."""

import os
import time
from pathlib import Path

import pytest

from tests import servers
from tests.servers import wait_until
from tests.yard import Yard


@pytest.mark.slow
def test_a_worker_shows_its_life_from_when_it_is_ready_until_its_engine_hangs(yard: Yard, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    yard.environment["REDUXQ_WORKER__HEARTBEAT_FILE"] = str(beat)
    worker = yard.worker("one", pace=0.01, stall_seconds=2)

    def beats() -> bool:
        os.utime(beat, (0, 0))
        time.sleep(1.2)
        return beat.stat().st_mtime > 0

    wait_until(beat.exists)
    yard.stop(servers.valkey)
    assert beats()
    assert worker.poll() is None
    yard.serve(servers.valkey)
    wait_until(yard.records.ping)
    yard.accept(seed=13)
    wait_until(lambda: worker.poll() is not None, 20)
    assert not beats()
