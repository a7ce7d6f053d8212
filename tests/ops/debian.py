"""Prometheus as Debian packages it, unpacked and not installed, so that nobody must be root."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def program(name: str) -> str:
    """Return ``prometheus`` or ``promtool``: this machine's, or Debian's; skip the test where neither can be had."""
    folder = Path(sys.prefix) / "debian-prometheus"
    if found := shutil.which(name):
        return found
    if not folder.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            pytest.skip(f"needs {name}, of Prometheus 2.42 or newer")
        with TemporaryDirectory(dir=sys.prefix) as unfinished:
            got = subprocess.run(
                ["apt-get", "download", "prometheus"], cwd=unfinished, capture_output=True, check=False, timeout=100
            )
            if got.returncode:
                pytest.skip(f"needs {name}; apt-get: {got.stderr.decode()}")
            (package,) = Path(unfinished).glob("*.deb")
            fresh = Path(unfinished) / "fresh"
            subprocess.run(["dpkg", "-x", package, fresh], check=True, timeout=100)
            fresh.rename(folder)
    return str(folder / "usr" / "bin" / name)
