"""Benchmarks run to their end, though what they measure in seconds says nothing."""

import subprocess
import sys

import pytest

from tests.servers import ROOT

BENCHES = {
    "batches --items 20 --jobs 1 --pace 0.01": "beside the batch",
    "busy --jobs 2 --pace 0.01": "one after another",
    "cancel --cancels 1": "until the engine is free",
    "loops --rounds 1 --steps 1 --depth 1 1": "cog-flux's loop",
    "overhead --jobs 6": "a bare Celery task",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", BENCHES)
def test_a_benchmark_runs(command: str) -> None:
    name, *arguments = command.split()
    bench = [sys.executable, "-m", f"tests.bench.{name}", *arguments]
    done = subprocess.run(bench, cwd=ROOT, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stderr
    assert BENCHES[command] in done.stdout
