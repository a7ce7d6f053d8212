"""Requests that are sent again."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from shared.connections import run
from shared.teams import set_credit
from tests.integration.test_openai import IMAGE, PATHS, QUICK, pictures_of
from tests.samples import encoded, picture
from tests.stack import Stack


def submit(client: httpx.Client, image: str, key: str | None, **prompt: Any) -> httpx.Response:
    chosen = {"imageUrl": image, "megapixels": "0.25", "num_inference_steps": 1} | prompt
    body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": chosen}
    return client.post("/api/features", json=body | {"async": True}, headers={"Idempotency-Key": key} if key else {})


def test_the_same_key_and_body_make_one_job(client: httpx.Client, source: dict[str, Any]) -> None:
    first, again = (submit(client, source["key"], "a-1").json()["aiRecord"]["uuid"] for _ in range(2))
    assert first == again
    assert submit(client, source["key"], None).json()["aiRecord"]["uuid"] != first
    assert submit(client, source["key"], "a-2").json()["aiRecord"]["uuid"] != first


def test_concurrent_twins_make_one_job(client: httpx.Client, source: dict[str, Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(client, source["key"], "twins"), range(16)))
    assert len({answer.json()["aiRecord"]["uuid"] for answer in answers}) == 1


def test_another_body_under_the_same_key_is_an_error(client: httpx.Client, source: dict[str, Any]) -> None:
    assert submit(client, source["key"], "b-1").status_code == 200
    answer = submit(client, source["key"], "b-1", num_outputs=2)
    assert answer.status_code == 422
    assert answer.json()["errorCode"] == "IDEMPOTENCY_KEY_REUSED"
    upload = client.post("/api/assets", files={"asset": IMAGE}, headers={"Idempotency-Key": "b-1"})
    assert upload.status_code == 422


def test_a_key_is_its_teams_own(stack: Stack, client: httpx.Client, source: dict[str, Any]) -> None:
    mine = submit(client, source["key"], "shared-word").json()["aiRecord"]["uuid"]
    with stack.client(stack.new_key("other-team")) as other:
        image = other.post("/api/assets", files={"asset": IMAGE}).json()["asset"]["key"]
        assert submit(other, image, "shared-word").json()["aiRecord"]["uuid"] != mine


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_no_key_is_refused(client: httpx.Client, source: dict[str, Any], key: str) -> None:
    answer = client.post("/api/assets", files={"asset": IMAGE}, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["field"] == "Idempotency-Key"


def test_an_upload_that_is_sent_again_is_stored_once(stack: Stack, client: httpx.Client) -> None:
    data = encoded(picture(90, 60), "PNG")

    def send(_: int) -> str:
        files = {"asset": ("twin.png", data)}
        answer = client.post("/api/assets", files=files, headers={"Idempotency-Key": "upload-1"})
        return str(answer.json()["asset"]["key"])

    with ThreadPoolExecutor(4) as pool:
        keys = set(pool.map(send, range(8)))
    assert len(keys) == 1
    assert len([key for key in stack.reservations() if key.endswith("_twin.png")]) == 1
    assert stack.objects().get(keys.pop()) == data  # type: ignore[arg-type]


def test_an_upload_that_is_sent_again_after_it_was_deleted_stays_deleted(stack: Stack, client: httpx.Client) -> None:
    send = partial(client.post, "/api/assets", files={"asset": IMAGE}, headers={"Idempotency-Key": "upload-2"})
    key = send().json()["asset"]["key"]
    client.delete(f"/api/assets/{key}").raise_for_status()
    again = send()
    assert again.status_code == 400
    assert "was deleted" in again.json()["message"]
    assert key not in stack.object_files()


def test_a_refused_request_may_be_changed_and_sent_again_with_its_key(stack: Stack) -> None:
    with stack.client(stack.new_key("poor-at-first")) as poor, stack.records() as records:
        run(records, set_credit("poor-at-first", 0))
        assert vary(poor, key="refused").status_code == 402
        run(records, set_credit("poor-at-first", 1000))
        assert len(pictures_of(vary(poor, key="refused", n="2"))) == 2


def vary(client: httpx.Client, retry: str | None = None, key: str | None = None, **fields: str) -> httpx.Response:
    headers = {"x-stainless-retry-count": retry, "Idempotency-Key": key}
    sent = {name: value for name, value in headers.items() if value is not None}
    return client.post(PATHS[0], files={"image": ("cat.png", IMAGE)}, data=QUICK | fields, headers=sent)


def test_an_sdks_retry_attaches_to_the_job_that_it_repeats(client: httpx.Client) -> None:
    first, again, other, fresh = (
        vary(client, "0", user="sdk"),
        vary(client, "1", user="sdk"),
        vary(client, "1", user="somebody else"),
        vary(client, "0", user="sdk"),
    )
    jobs = [answer.headers["x-job-id"] for answer in (first, again, other, fresh)]
    assert jobs[0] == jobs[1]
    assert len(set(jobs)) == 3
    assert first.json() == again.json()
    assert vary(client, "2", user="sdk").headers["x-job-id"] == jobs[3]


def test_twins_with_a_key_share_job_and_source(stack: Stack, client: httpx.Client) -> None:
    before = stack.reservations()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: vary(client, key="openai-twins"), range(4)))
    assert len({answer.headers["x-job-id"] for answer in answers}) == 1
    assert len(pictures_of(answers[0])) == 1
    assert len(stack.reservations() - before) == 2  # the source, the variation
