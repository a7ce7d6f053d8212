"""What a run's logs say, and what they never do."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from shared.connections import run
from shared.ids import JobId
from shared.keys import create_key
from tests import servers
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.stack import Stack, feature, upload
from tests.yard import LEASE, Yard

REQUEST = "one-of-a-kind"


def test_keys_passwords_and_presigned_links_are_never_logged(
    stack: Stack, client: httpx.Client, source: dict[str, Any]
) -> None:
    record = feature(client, source["key"], wait=True)
    path, _, query = record["temporaryUrl"].partition("/reduxq/")[2].partition("?")
    assert httpx.get(f"{stack.told['api_url']}/{path}?{query}").status_code == 307
    image = {"image": encoded(picture(), "PNG")}
    fields = {"size": "512x512", "num_inference_steps": "1", "response_format": "url"}
    client.post("/v1/images/variations", files=image, data=fields).raise_for_status()
    feature(client, record["temporaryUrl"])
    client.get("/api/results/x", headers={"API-KEY": stack.told["api_key"] + "0"})
    client.post("/api/features", json={"promptObject": {"imageUrl": record["temporaryUrl"] + "0"}})
    secrets = json.loads((stack.folder / "secrets.json").read_text())
    hidden = {str(value) for name, value in secrets.items() if "user" not in name and "port" not in name}
    hidden |= {stack.told["api_key"], stack.told["api_key"].split("_")[2], "X-Amz-Signature", query}
    logs = {
        path.name: path.read_text(errors="replace") for path in (stack.folder / "logs").rglob("*") if path.is_file()
    }
    assert "answered" in logs["api.log"]
    assert record["uuid"] in "".join(logs.values())
    for name, text in logs.items():
        assert not [secret for secret in hidden if secret in text], name


def test_one_request_id_leads_through_the_logs_of_all_processes(tmp_path: Path) -> None:
    with ExitStack() as living:
        yard = Yard(tmp_path, living, LEASE | {"REDUXQ_LOG__FORMAT": "json"})
        yard.worker("worker", pace=0)
        url = living.enter_context(servers.api(tmp_path, yard.environment))
        key = run(yard.records, create_key("lab", "Ada"))
        with httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=40) as client:
            source = upload(client, encoded(picture(), "PNG"))["key"]
            client.headers["x-request-id"] = REQUEST
            job_id = JobId(feature(client, source, wait=True)["uuid"])
        wait_until(lambda: '"ended"' in yard.log("dispatcher"))
        about: dict[str, object] = {"job": job_id, "team": yard.stored(job_id).team_id, "request": REQUEST}
        expected: list[tuple[str, str, dict[str, object]]] = [
            ("api", "accepted", about | {"attempt": 0}),
            ("api", "answered", {"request": REQUEST, "path": "/api/features"}),
            ("dispatcher", "published", {"jobs": [job_id]}),
            ("worker", "started", about | {"attempt": 1}),
            ("worker", "settled", about | {"attempt": 1, "status": "succeeded"}),
            ("dispatcher", "ended", about | {"attempt": 1, "status": "succeeded", "code": None}),
        ]
        for process, event, fields in expected:
            lines = [json.loads(line) for line in yard.log(process).splitlines() if line.startswith("{")]
            assert any(line["event"] == event and fields.items() <= line.items() for line in lines), (process, event)
