"""What a run's logs say, and what they never do."""

import json
from typing import Any

import httpx

from tests.samples import encoded, picture
from tests.stack import Stack, feature


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
