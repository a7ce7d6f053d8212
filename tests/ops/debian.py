"""Programs as Debian packages them, unpacked and not installed, so that nobody must be root."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

SIMULATE = ("apt-get", "--simulate", "--no-install-recommends", "install")


class Unobtainable(Exception):
    """A package cannot be had here; the message says why."""


def program(name: str) -> str:
    """Return ``prometheus`` or ``promtool``: this machine's, or Debian's; skip the test where neither can be had."""
    if found := shutil.which(name):
        return found
    try:
        return str(unpacked("prometheus") / "usr" / "bin" / name)
    except Unobtainable as error:
        pytest.skip(f"needs {name}, of Prometheus 2.42 or newer: {error}")


def unpacked(package: str, *, whole: bool = False) -> Path:
    """Return the folder that a package lies in, fetched once for each Python environment.

    Args:
        package: Its name.
        whole: Whether what it depends on and this machine lacks comes too.

    Raises:
        Unobtainable: If there is no apt, or it does not deliver.
    """
    folder = Path(sys.prefix) / f"debian-{package}"
    if folder.exists():
        return folder
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unobtainable("this is no Debian")
    with TemporaryDirectory(dir=sys.prefix) as unfinished:
        wanted = [package]
        if whole:
            planned = _done([*SIMULATE, package], unfinished).splitlines()
            wanted = [line.split()[1] for line in planned if line.startswith("Inst ")]
        _done(["apt-get", "download", *wanted], unfinished)
        fresh = Path(unfinished) / "fresh"
        for each in Path(unfinished).glob("*.deb"):
            subprocess.run(["dpkg", "-x", each, fresh], check=True, timeout=100)
        fresh.rename(folder)
    return folder


def _done(command: list[str], folder: str) -> str:
    got = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
    if got.returncode:
        raise Unobtainable(f"apt-get: {got.stderr.strip()}")
    return got.stdout
