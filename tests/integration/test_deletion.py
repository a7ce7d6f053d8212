"""How pictures leave."""

from typing import Any

import httpx
import pytest

from shared.errors import NotFound
from shared.ids import AssetKey
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.stack import Stack, feature, result, upload, wait_for


def test_a_deleted_image_is_gone_and_cannot_be_varied(stack: Stack, client: httpx.Client) -> None:
    asset = upload(client, encoded(picture(), "PNG"))
    for _ in range(2):
        answer = client.delete(f"/api/assets/{asset['key']}")
        assert answer.status_code == 200
        assert answer.json()["asset"]["key"] == asset["key"]
        assert answer.json()["asset"]["deletedAt"]
    with pytest.raises(NotFound):
        stack.objects().get(AssetKey(asset["key"]))
    body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev"}
    varied = client.post("/api/features", json=body | {"promptObject": {"imageUrl": asset["key"]}})
    assert varied.status_code == 400
    assert client.get(f"/{asset['key']}").status_code == 404


def test_a_deleted_result_leaves_a_tombstone(stack: Stack, client: httpx.Client, source: dict[str, Any]) -> None:
    record = feature(client, source["key"], wait=True, num_outputs=2)
    variations = record["aiRecordDetail"]["resultObject"]
    for _ in range(2):
        tombstone = client.delete(f"/api/results/{record['uuid']}").json()["aiRecord"]
        assert tombstone["status"] == "SUCCESS"
        assert tombstone["aiRecordDetail"] == {"promptObject": {}, "resultObject": [], "responseObject": {}}
        assert tombstone["temporaryUrl"] is None
        assert tombstone["additionalData"]["deletedAt"]
        assert tombstone["additionalData"]["price"]["charged"] == record["additionalData"]["price"]["charged"]
    assert not any(variation in stack.object_files() for variation in variations)
    assert not {f"asset:{variation}" for variation in variations} & stack.reservations()
    assert client.get(f"/{variations[0]}").status_code == 404
    assert client.get(f"/{source['key']}").status_code == 307


def test_deleting_the_result_of_a_job_that_runs_ends_it_and_gives_its_credits_back(
    stack: Stack, source: dict[str, Any], client: httpx.Client
) -> None:
    before = client.get("/users").json()["user"]["teams"][0]["team"]["credit"]
    running = feature(client, source["key"], megapixels="1", num_inference_steps=50, num_outputs=4)
    wait_until(lambda: result(client, running["uuid"])["additionalData"]["progress"])
    tombstone = client.delete(f"/api/results/{running['uuid']}").json()["aiRecord"]
    assert tombstone["status"] == "FAILURE"
    assert tombstone["aiRecordDetail"]["resultObject"]["code"] == "CANCELED"
    assert client.get("/users").json()["user"]["teams"][0]["team"]["credit"] == before
    after = feature(client, source["key"])
    assert wait_for(client, after["uuid"])["status"] == "SUCCESS"
    assert result(client, running["uuid"]) | {"teamUser": None} == tombstone | {"teamUser": None}


def test_a_source_that_came_with_its_job_leaves_with_it(stack: Stack, client: httpx.Client) -> None:
    objects, owned = stack.object_files(), stack.reservations()
    fields = {"size": "512x512", "num_inference_steps": "1", "user": "somebody"}
    answer = client.post("/v1/images/variations", files={"image": encoded(picture(), "PNG")}, data=fields)
    assert len(stack.object_files() - objects) == 2
    tombstone = client.delete(f"/api/results/{answer.headers['x-job-id']}").json()["aiRecord"]
    assert tombstone["additionalData"]["user"] is None
    assert (stack.object_files(), stack.reservations()) == (objects, owned)


def test_a_variation_leaves_with_its_result(client: httpx.Client, source: dict[str, Any]) -> None:
    record = feature(client, source["key"], wait=True)
    answer = client.delete(f"/api/assets/{record['aiRecordDetail']['resultObject'][0]}")
    assert answer.status_code == 400
    assert f"DELETE /api/results/{record['uuid']}" in answer.json()["message"]


def test_what_is_not_there_cannot_be_deleted(client: httpx.Client) -> None:
    assert client.delete("/api/assets/images/none.png").status_code == 404
    assert client.delete("/api/results/none").status_code == 404


def test_an_image_is_followed_by_its_key_or_by_a_signed_link(
    stack: Stack, client: httpx.Client, source: dict[str, Any]
) -> None:
    data = encoded(picture(640, 480), "PNG")
    assert client.get(f"/{source['key']}", follow_redirects=True).content == data
    record = feature(client, source["key"], wait=True)
    path, _, query = record["temporaryUrl"].partition("/reduxq/")[2].partition("?")
    with httpx.Client(base_url=stack.told["api_url"], follow_redirects=True) as anybody:
        assert anybody.get(f"/{path}?{query}").status_code == 200
        assert anybody.get(f"/{path}?{query[:-1]}{'0' if query[-1] != '0' else '1'}").status_code == 403
        assert anybody.get(f"/{path}").status_code == 401
    with stack.client(stack.new_key("strangers")) as stranger:
        assert stranger.get(f"/{path}").status_code == 404
