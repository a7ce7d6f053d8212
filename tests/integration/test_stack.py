"""The local stack and the demo, with every part real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from reduxq import Client, Job
from reduxq.local.demo import SAMPLE
from shared.connections import connect, run
from shared.presence import WorkerLife, announce_worker
from tests.servers import ROOT, wait_until

LONG = {"num_outputs": 2, "megapixels": "0.25", "num_inference_steps": 50}


class Up:
    """A running ``reduxq up``."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.output = data.with_suffix(".txt")
        with self.output.open("wb") as output:
            self.process = _reduxq("up", "--port", "0", "--data", str(data), stdout=output, stderr=output)
        try:
            wait_until(lambda: (data / "stack.json").exists() or self.process.poll() is not None, seconds=60)
            self.first = self.stack()
        except AssertionError:
            self.process.kill()  # its parts follow
            raise
        self.client = Client(self.first["api_url"], self.first["api_key"], trust_env=False)

    def stack(self) -> dict[str, Any]:
        assert self.process.poll() is None, self.output.read_text()
        found: dict[str, Any] = json.loads((self.data / "stack.json").read_text())
        return found

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.data / "pids.json").read_text())
        return found

    def upload(self) -> str:
        return self.client.upload(SAMPLE)

    def submit(self, **parameters: Any) -> Job:
        return self.client.variations.create(self.upload(), **{**LONG, **parameters})

    def finish(self, uuid: str, seconds: float = 60) -> dict[str, Any]:
        return self.client.jobs.get(uuid).wait(seconds).record

    def terminate(self) -> int:
        self.client.close()
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


def _reduxq(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REDUXQ_")}
    if arguments[0] == "up":
        environment["REDUXQ_TEAMS__REQUESTS_PER_MINUTE"] = "100000"  # the tests ask more often than people
    return subprocess.Popen([sys.executable, "-m", "reduxq", *arguments], env=environment, cwd=ROOT, **options)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


def is_running(client: Client, uuid: str) -> bool:
    progress = client.jobs.get(uuid).progress
    return progress is not None and progress.step > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert _reduxq("model", "tiny", str(folder)).wait(60) == 0
    return folder


def folder_with(model: Path, parent: Path) -> Path:
    data = parent / "a stack"  # a name with a blank, as people have them
    shutil.copytree(model, data / "model")
    return data


@pytest.fixture(scope="module")
def up(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(folder_with(model, tmp_path_factory.mktemp("shared")))
    yield running
    assert running.terminate() == 0


def test_a_ready_stack_says_where_everything_is(up: Up) -> None:
    stack = up.stack()
    assert (up.data / "stack.json").stat().st_mode & 0o777 == 0o600
    assert httpx.get(f"{stack['api_url']}/readyz", trust_env=False).json()["workers"] == 1
    assert not any(is_gone(pid) for pid in up.pids().values())
    printed = up.output.read_text()
    for name in ("api_url", "api_key", "flower_url", "flower_user", "flower_password"):
        assert stack[name] in printed
    line = next(line.strip() for line in printed.splitlines() if "curl" in line)
    shutil.copy(SAMPLE, up.data / "example.png")
    answer = subprocess.run(["sh", "-c", f"{line} -s --noproxy '*'"], cwd=up.data, capture_output=True, check=True)
    assert json.loads(answer.stdout)["asset"]["mimetype"] == "image/webp"


def test_flower_answers_only_with_its_password(up: Up) -> None:
    url, login = up.first["flower_url"], (up.first["flower_user"], up.first["flower_password"])
    for path in ("/workers", "/tasks", "/api/tasks"):
        assert httpx.get(url + path, trust_env=False).status_code == 401
        assert httpx.get(url + path, auth=login, trust_env=False).status_code == 200


def test_the_object_storage_answers_only_with_its_key(up: Up) -> None:
    assert httpx.get(f"{up.first['s3_url']}/reduxq", trust_env=False).status_code in {400, 403}


def test_no_secret_stands_on_any_command_line(up: Up) -> None:
    kept = json.loads((up.data / "secrets.json").read_text()).values()
    hidden = [value for value in kept if isinstance(value, str) and value != "reduxq"]
    command_lines = b"\n".join(path.read_bytes() for path in _command_lines())
    assert str(up.data).encode() in command_lines
    assert not any(secret.encode() in command_lines for secret in hidden)


def _command_lines() -> Iterator[Path]:
    yield from (path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


def test_every_part_listens_on_loopback_alone(up: Up) -> None:
    listening = [address for pid in up.pids().values() for address in _listening(pid)]
    assert len(listening) >= 4
    assert all(address.startswith("0100007F:") for address in listening)


def _listening(pid: int) -> Iterator[str]:
    """Yield the local addresses, in hexadecimal, of the sockets on which a process listens."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    sockets = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and rest[5] in sockets:
                yield address


def test_a_second_stack_in_the_same_folder_is_refused(up: Up) -> None:
    second = _reduxq("up", "--port", "0", "--data", str(up.data), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    assert errors.decode().count("\n") == 1
    assert f"in use by the processes supervisor {up.process.pid}, redis" in errors.decode()
    assert up.stack() == up.first


@pytest.mark.parametrize("name", ["api", "dispatcher", "redis", "s3", "flower"])
def test_a_part_that_is_killed_is_started_again_in_its_place(up: Up, name: str) -> None:
    before = up.pids()[name]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: up.pids()[name] != before, seconds=10)
    assert up.stack() == up.first
    assert f"{name} (process {before}) was killed by SIGKILL; its log" in up.output.read_text()
    wait_until(lambda: _serves(up), seconds=30)


def _serves(up: Up) -> bool:
    try:
        health = httpx.get(f"{up.first['api_url']}/readyz", trust_env=False).json()
        flower = httpx.get(f"{up.first['flower_url']}/healthcheck", trust_env=False).is_success
    except httpx.TransportError:
        return False
    return bool(flower and health["status"] == "ok" and health["dispatcher"] and health["workers"])


def test_a_job_survives_the_death_of_the_only_worker(up: Up) -> None:
    began = time.monotonic()
    uuid = up.submit().uuid
    wait_until(lambda: is_running(up.client, uuid), seconds=30)
    worker = up.pids()["worker-1"]
    os.kill(worker, signal.SIGKILL)
    record = up.finish(uuid)
    assert time.monotonic() - began < 60
    assert record["status"] == "SUCCESS"
    assert record["additionalData"]["attempt"] == 2
    assert len(record["aiRecordDetail"]["resultObject"]) == 2
    assert up.pids()["worker-1"] != worker


def test_a_worker_lives_on_when_records_and_broker_are_restarted_under_its_job(up: Up) -> None:
    uuid = up.submit().uuid
    wait_until(lambda: is_running(up.client, uuid), seconds=30)
    before = up.pids()
    os.kill(before["redis"], signal.SIGKILL)
    wait_until(lambda: up.pids()["redis"] != before["redis"] and _serves(up), seconds=15)
    record = up.finish(uuid)
    assert (record["status"], record["additionalData"]["attempt"]) == ("SUCCESS", 1)
    after = up.finish(up.submit(num_inference_steps=1).uuid)
    assert after["status"] == "SUCCESS"
    assert up.pids()["worker-1"] == before["worker-1"]


def test_keys_are_made_listed_and_ended_in_a_running_stack(up: Up) -> None:
    made = _output("keys", "create", "--team", "lake", "--data", str(up.data)).strip()
    with Client(up.first["api_url"], made, trust_env=False) as client:
        assert client.upload(SAMPLE)
    assert "lake" in _output("keys", "list", "--data", str(up.data))
    _output("keys", "revoke", made.split("_")[1], "--data", str(up.data))
    assert httpx.get(f"{up.first['api_url']}/api/results/x", headers={"API-KEY": made}).status_code == 401


def _output(*arguments: str) -> str:
    process = _reduxq(*arguments, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.decode()


def test_a_stopped_stack_leaves_no_process_and_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    data = folder_with(model, tmp_path)
    with _running(data) as first:
        uuid = first.submit().uuid
        wait_until(lambda: is_running(first.client, uuid), seconds=30)
        pids = first.pids().values()
        assert first.terminate() == 0
        assert all(is_gone(pid) for pid in pids)
        assert not (data / "stack.json").exists()
    with _running(data) as second:
        assert second.first == first.first
        record = second.finish(uuid)
        assert (record["status"], record["additionalData"]["attempt"]) == ("SUCCESS", 2)
        assert httpx.get(record["temporaryUrl"], trust_env=False).is_success
        with connect(second.first["redis_url"]) as records:
            run(records, announce_worker("killed", WorkerLife(slots=1, speed=0), lasts=timedelta(minutes=2)))
        pids = second.pids().values()
        second.kill()
        wait_until(lambda: all(is_gone(pid) for pid in pids), seconds=5)
    (data / "stack.json").unlink()
    with _running(data):  # ready when its own worker is, whatever a killed one said
        assert re.search(r"\bready\b", (data / "logs" / "worker-1.log").read_text())


@contextmanager
def _running(data: Path) -> Iterator[Up]:
    running = Up(data)
    try:
        yield running
    finally:
        running.kill()


def test_the_demo_leaves_pictures_a_sheet_and_the_record(model: Path, tmp_path: Path) -> None:
    data, out = folder_with(model, tmp_path), tmp_path / "out"
    printed = _output("demo", "--data", str(data), "--out", str(out))
    assert "noise" in printed
    assert re.search(r"step \d of 8", printed)
    assert {path.name for path in out.iterdir()} == {
        "aiRecord.json",
        "contact-sheet.png",
        *(f"variation-{number}.webp" for number in range(1, 5)),
    }
    for number in range(1, 5):
        with Image.open(out / f"variation-{number}.webp") as variation:
            assert (variation.format, variation.size) == ("WEBP", (576, 448))
    record = json.loads((out / "aiRecord.json").read_text())
    assert (record["status"], record["additionalData"]["model"]["trained"]) == ("SUCCESS", False)
    assert not (data / "stack.json").exists()


def test_a_demo_that_is_refused_says_why_on_one_line(model: Path, tmp_path: Path) -> None:
    data = folder_with(model, tmp_path)
    arguments = ("--data", str(data), "--out", str(tmp_path / "out"), "--aspect-ratio", "5:7")
    demo = _reduxq("demo", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "aspect_ratio" in errors.decode()
    assert str(data / "logs") in errors.decode()
