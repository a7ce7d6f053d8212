"""``make images-test``: builds both images and sends a job through the containers, from outside."""

import json
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx
from PIL import Image

from tests.images.building import build_all, call, prepare
from tests.images.running import FLOWER_PASSWORD, NAME, Running, running
from tests.samples import encoded, picture

READY: Final = 180.0  #: seconds until all parts work, on a busy machine
OURS: Final = ("api", "dispatcher", "worker-cpu", "flower")
FRONT: Final = "black-forest-labs/flux-redux-dev"


def main() -> None:
    """Build, run, check; the first fault ends it."""
    with TemporaryDirectory(prefix="images-test-") as folder:
        prepare(Path(folder))
        build_all(Path(folder))
        with running(Path(folder)) as stack:
            checks = (_ready, _job_from_outside, _healthy, _doctor, _flower, _confined, _synchronous, _outlive, _leave)
            for check in checks:
                began = time.monotonic()
                try:
                    told = check(stack)
                except (AssertionError, httpx.HTTPError) as error:
                    sys.exit(f"{check.__name__[1:]} FAILED: {error!r}\n{stack.logs()}")
                print(f"{check.__name__[1:]}: {told} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(checks)} passed, 0 failed")


def _ready(stack: Running) -> str:
    """The parts find each other."""
    _wait(lambda: _state(stack).get("workers") == 1 and _state(stack).get("dispatcher"), READY)
    return str(_state(stack))


def _state(stack: Running) -> dict[str, object]:
    try:
        answer: dict[str, object] = httpx.get(f"{stack.url('api')}/readyz", timeout=5).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return answer


def _job_from_outside(stack: Running) -> str:
    """A client uploads, asks, and gets the picture by a link that S3 itself serves."""
    stack.call("api", "reduxq", "teams", "create", "lab", "--credit", "50000000")
    key = stack.call("api", "reduxq", "keys", "create", "--team", "lab", "--user", "ada").split()[-1]
    with httpx.Client(base_url=stack.url("api"), headers={"API-KEY": key}, timeout=60) as client:
        asset = client.post("/api/assets", files={"asset": ("cat.png", encoded(picture(), "PNG"))}).json()["asset"]
        wanted = {"imageUrl": asset["key"], "num_outputs": 2, "megapixels": "0.25", "num_inference_steps": 4}
        body = {"type": "IMAGE_VARIATOR", "model": FRONT, "promptObject": wanted}
        record = client.post("/api/features", json=body).json()["aiRecord"]
        assert record["status"] == "SUCCESS", record
        links = record["additionalData"]["temporaryUrls"]
        assert len(links) == 2
        assert all(link.startswith(f"{stack.url('s3')}/reduxq/images/") for link in links), links
        sizes = [Image.open(BytesIO(httpx.get(link).raise_for_status().content)).size for link in links]
        assert sizes == [(576, 448)] * 2, sizes
        assert httpx.get(links[0].replace("Signature=", "Signature=0")).is_client_error
    return f"{record['uuid']} {record['status']}, two pictures of {sizes[0]}"


def _healthy(stack: Running) -> str:
    """What the images and the file call healthy is so."""
    asked = [name for name in OURS if name != "dispatcher" or "healthcheck" in stack.services[name]]
    for name in asked:
        call("podman", "healthcheck", "run", stack.container(name))
    return ", ".join(asked)


def _doctor(stack: Running) -> str:
    """Inside the box nothing is broken, though the public S3 address, which is the host's, leads nowhere."""
    for name in ("dispatcher", "worker-cpu"):
        told = stack.call(name, "reduxq", "doctor", "--json", "--api", "http://api:8000").splitlines()
        findings = [json.loads(line) for line in told]
        assert [one["check"] for one in findings if one["level"] == "note"] == ["links"], findings
        assert {one["level"] for one in findings} <= {"ok", "note", "warning"}, findings
    return "nothing broken"


def _flower(stack: Running) -> str:
    """The monitor knows who asks."""
    pages = f"{stack.url('flower')}/flower/"
    assert httpx.get(pages).status_code == 401
    assert httpx.get(pages, auth=("reduxq", FLOWER_PASSWORD), follow_redirects=True).status_code == 200
    return "401 without the password, 200 with it"


def _confined(stack: Running) -> str:
    """Nobody is root, writes to an image, or holds a capability; a worker has no way out."""
    for name in (*OURS, "redis", "s3"):
        assert stack.call(name, "id", "-u").strip() != "0", name
        assert stack.fails(name, "touch", "/usr/local/written"), name
        assert "CapEff:\t0000000000000000" in stack.call(name, "cat", "/proc/self/status"), name
    for name in ("worker-cpu", "redis"):
        routes = [line.split()[1] for line in stack.call(name, "cat", "/proc/net/route").splitlines()[1:]]
        assert routes, name
        assert "00000000" not in routes, name
    return ", ".join((*OURS, "redis", "s3"))


def _synchronous(_: Running) -> str:
    """What lies in the bucket was written synchronously."""
    place = Path(call("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", f"{NAME}_s3").strip())
    objects = [path for path in (place / "reduxq").rglob("*") if path.is_file()]
    assert len(objects) == 3, objects
    for path in objects:
        assert "S" in call("lsattr", path).split()[0], path
    return f"{len(objects)} objects"


def _outlive(stack: Running) -> str:
    """Records outlive the end of their server and of its container."""
    before = _records(stack)
    assert before
    call("podman", "restart", "--time", "20", stack.container("redis"))
    _wait(lambda: _state(stack).get("status") == "ok" and _state(stack).get("workers") == 1, READY)
    assert _records(stack) == before
    return f"{len(before)} record, the same after a restart"


def _records(stack: Running) -> list[dict[str, object]]:
    lines = stack.call("api", "reduxq", "jobs", "list", "--json").splitlines()
    return [{**json.loads(line), "age_seconds": None} for line in lines]


def _leave(stack: Running) -> str:
    """SIGTERM reaches every process, and it leaves in time."""
    told = []
    for name in (*OURS, "redis"):
        grace = stack.services[name].get("stop_grace_period", "10s").removesuffix("s")
        began = time.monotonic()
        call("podman", "stop", "--time", grace, stack.container(name))
        code = call("podman", "inspect", "--format", "{{.State.ExitCode}}", stack.container(name)).strip()
        assert code == "0", f"{name} left with {code} after {time.monotonic() - began:.1f} s"
        told.append(f"{name} {time.monotonic() - began:.1f} s")
    return ", ".join(told)


def _wait(what: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.5)


if __name__ == "__main__":
    main()
