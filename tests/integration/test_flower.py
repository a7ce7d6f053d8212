"""What a person sees in Flower is what the record says."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from shared.connections import run
from shared.ids import JobId
from shared.job_store import JobStore
from shared.queue import QUEUE, Broker
from shared.settings import Settings
from tests import servers
from tests.composed import composed
from tests.samples import encoded, fund, picture, record, start
from tests.servers import wait_until
from tests.stack import Stack, feature, result, upload, wait_for


def publish_again(stack: Stack, uuid: str) -> None:
    """Send a job's message a second time and wait until a worker has refused it."""
    Broker(stack.told["redis_url"].rpartition("/")[0] + "/1").publish([JobId(uuid)], QUEUE)
    log = stack.folder / "logs" / "worker-1.log"
    wait_until(lambda: re.search(rf"not claimed.*{uuid}", log.read_text()))


def test_a_running_jobs_task_is_started_and_its_record_tells_the_step(
    stack: Stack, client: httpx.Client, source: dict[str, Any]
) -> None:
    uuid = feature(client, source["key"], num_inference_steps=15, megapixels="1")["uuid"]

    def step() -> int:
        progress = result(client, uuid)["additionalData"]["progress"]
        return progress["step"] if progress else 0

    wait_until(lambda: step() > 0)
    wait_until(lambda: stack.flower_state(uuid) == "STARTED", 5)
    assert result(client, uuid)["status"] == "PROCESSING"
    assert 0 < step() < 15
    assert wait_for(client, uuid)["status"] == "SUCCESS"


def test_a_job_that_succeeded_is_a_task_that_succeeded_and_a_duplicate_changes_neither(
    stack: Stack, client: httpx.Client, source: dict[str, Any]
) -> None:
    done = feature(client, source["key"], wait=True)
    wait_until(lambda: stack.flower_state(done["uuid"]) == "SUCCESS", 5)
    publish_again(stack, done["uuid"])
    assert result(client, done["uuid"])["aiRecordDetail"] == done["aiRecordDetail"]
    assert result(client, done["uuid"])["additionalData"]["attempt"] == 1
    assert stack.flower_state(done["uuid"]) == "SUCCESS"


def test_a_job_that_failed_is_a_task_that_failed(stack: Stack, client: httpx.Client) -> None:
    source = upload(client, encoded(picture(), "PNG"))["key"]
    stack.objects().delete(source)
    failed = feature(client, source, wait=True)
    assert failed["status"] == "FAILURE"
    told = failed["aiRecordDetail"]["resultObject"]
    assert (told["code"], told["name"]) == ("SOURCE_UNUSABLE", "SourceUnusable")
    assert "the source" in told["message"]
    wait_until(lambda: stack.flower_state(failed["uuid"]) == "FAILURE", 5)
    publish_again(stack, failed["uuid"])
    assert result(client, failed["uuid"])["aiRecordDetail"] == failed["aiRecordDetail"]
    assert stack.flower_state(failed["uuid"]) == "FAILURE"


def test_a_job_that_the_dispatcher_gave_up_is_a_task_that_failed(stack: Stack) -> None:
    lost = start(record()).model_copy(update={"failed_attempts": 2})
    store = JobStore(Settings().jobs.lease_seconds)
    with stack.records() as records:
        fund(records)
        run(records, store.accept(lost))
        wait_until(lambda: stack.flower_state(lost.id) == "FAILURE")
        ended = run(records, store.get(lost.id))
    assert ended is not None
    assert ended.failure is not None
    assert ended.failure.code == "TOO_MANY_ATTEMPTS"


def test_flower_shows_nothing_without_its_password(stack: Stack) -> None:
    for path in ("/", "/tasks", "/api/tasks"):
        assert httpx.get(stack.told["flower_url"] + path).status_code == 401


@contextmanager
def composed_flower(folder: Path, valkey: str) -> Iterator[httpx.Client]:
    """Run Flower as docker-compose.yml has it, and ask it with its password."""
    secrets = (
        "REDIS_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "S3_PUBLIC_URL",
        "FLOWER_PASSWORD",
        "GRAFANA_PASSWORD",
    )
    service, port = composed(dict.fromkeys(secrets, "secret"))["services"]["flower"], servers.free_port()
    own = {"CELERY_BROKER_URL": f"{valkey}/1", "FLOWER_DB": str(folder / "flower.db"), "FLOWER_PORT": str(port)}
    command = [sys.executable, "-m", *service["command"]]
    with (
        servers.process(command, folder / "flower.log", service["environment"] | own),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/flower", auth=("reduxq", "secret")) as client,
    ):
        wait_until(lambda: servers.listens(port))
        yield client


def test_a_job_that_waits_is_a_pending_task_that_flower_remembers_when_it_is_started_again(
    tmp_path: Path, valkey: str
) -> None:
    job_id = JobId(str(uuid4()))

    def shown(flower: httpx.Client) -> bool:
        answer = flower.get(f"/api/task/info/{job_id}")
        return answer.is_success and answer.json()["state"] == "PENDING"

    def sent_and_shown(flower: httpx.Client) -> bool:
        Broker(f"{valkey}/1").publish([job_id], QUEUE)  # an event that is sent before Flower listens is lost
        return shown(flower)

    with composed_flower(tmp_path, valkey) as flower:
        assert flower.get("/tasks", auth=httpx.BasicAuth("reduxq", "wrong")).status_code == 401
        wait_until(lambda: sent_and_shown(flower))
    with composed_flower(tmp_path, valkey) as flower:
        wait_until(lambda: shown(flower))
