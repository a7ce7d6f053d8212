"""The 1min.ai facade, over HTTP, on the whole stack."""

import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.samples import encoded, picture
from tests.stack import Stack, feature, result, upload, wait_for

SAMPLE_FIELDS = [
    "uuid",
    "userId",
    "teamId",
    "teamUser",
    "model",
    "type",
    "metadata",
    "rating",
    "feedback",
    "conversationId",
    "status",
    "createdAt",
    "aiRecordDetail",
    "additionalData",
    "temporaryUrl",
]
SAMPLE_TEAM_USER = [
    "teamId",
    "userId",
    "userName",
    "userAvatar",
    "status",
    "role",
    "creditLimit",
    "usedCredit",
    "createdAt",
    "createdBy",
    "updatedAt",
    "updatedBy",
]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error's body, whose shape never changes."""
    body: dict[str, Any] = answer.json()
    assert set(body) == {"success", "errorCode", "message", "error"}
    assert body["success"] is False
    assert body["error"]["message"] == body["message"]
    assert isinstance(body["error"]["details"], list)
    assert answer.headers["x-request-id"]
    return body


def test_the_whole_way_from_a_picture_to_its_variations(client: httpx.Client, source: dict[str, Any]) -> None:
    record = feature(client, source["key"], wait=True, num_outputs=2, seed=0, format="jpg", aspect_ratio="16:9")
    assert list(record) == SAMPLE_FIELDS
    assert list(record["teamUser"]) == SAMPLE_TEAM_USER
    assert record["status"] == "SUCCESS"
    assert record["aiRecordDetail"]["promptObject"]["num_outputs"] == 2
    keys = record["aiRecordDetail"]["resultObject"]
    assert all(key.startswith("images/") and key.endswith(".jpg") for key in keys)
    extra = record["additionalData"]
    assert extra["seeds"] == [0, 1]
    assert (extra["safetyChecker"], extra["flagged"]) == ("safety", [])
    assert extra["price"] == {"credits": 473, "charged": 473, "usd": 0.0004725}
    assert extra["attempt"] == 1
    assert (extra["model"]["trained"], extra["model"]["precision"]) == (False, "float32")
    assert record["temporaryUrl"].partition("?")[0] == extra["temporaryUrls"][0].partition("?")[0]
    for key, link in zip(keys, extra["temporaryUrls"], strict=True):
        assert f"/{key}?" in link
        with Image.open(BytesIO(httpx.get(link).content)) as image:
            assert (image.format, image.size) == ("JPEG", (672, 384))


def test_an_asynchronous_job_is_answered_at_once_and_polled(client: httpx.Client, source: dict[str, Any]) -> None:
    record = feature(client, source["key"])
    assert record["status"] == "PROCESSING"
    assert record["aiRecordDetail"]["resultObject"] == []
    assert record["temporaryUrl"] is None
    assert wait_for(client, record["uuid"])["status"] == "SUCCESS"
    assert result(client, record["uuid"])["uuid"] == record["uuid"]


def test_a_poller_that_asks_every_two_seconds_sees_a_job_through(client: httpx.Client, source: dict[str, Any]) -> None:
    """As the n8n node does, for 120 s at most."""
    uuid = feature(client, source["key"], num_inference_steps=50, num_outputs=4)["uuid"]
    seen = []
    for _ in range(60):
        seen.append(client.get(f"/api/results/{uuid}").json()["aiRecord"]["status"])
        if seen[-1] in {"SUCCESS", "FAILURE"}:
            break
        time.sleep(2)
    assert seen == ["PROCESSING"] * (len(seen) - 1) + ["SUCCESS"]
    assert len(seen) > 1


def test_an_upload_is_answered_with_every_field_that_a_client_reads(stack: Stack, client: httpx.Client) -> None:
    answer = client.post("/api/assets", files={"asset": ("My cat (1).png", encoded(picture(), "PNG"), "x/y")}).json()
    asset, content = answer["asset"], answer["fileContent"]
    assert asset["key"].endswith("_My_cat_1_.png")
    assert asset["originalname"] == "My cat (1).png"
    assert asset["mimetype"] == asset["contentType"] == "image/png"
    assert asset["size"] == len(encoded(picture(), "PNG"))
    assert asset["metadata"]["team-id"]
    assert asset["location"].endswith(asset["key"])
    assert stack.objects().get(asset["key"]) == encoded(picture(), "PNG")
    assert content["path"] == asset["key"]
    assert (content["type"], content["status"]) == ("png", "ACTIVE")


def test_a_source_is_named_by_its_key_its_location_or_a_presigned_link(
    client: httpx.Client, source: dict[str, Any]
) -> None:
    first = feature(client, source["location"], wait=True)
    again = feature(client, first["temporaryUrl"], wait=True)
    assert again["status"] == "SUCCESS"
    last = feature(client, again["aiRecordDetail"]["resultObject"][0], wait=True)
    assert last["status"] == "SUCCESS"


def test_a_missing_seed_is_drawn_and_makes_the_same_picture_again(client: httpx.Client, source: dict[str, Any]) -> None:
    first = feature(client, source["key"], wait=True, format="png", num_outputs=2)
    (seed, second_seed) = first["additionalData"]["seeds"]
    assert second_seed == (seed + 1) % 2**32
    again = feature(client, source["key"], wait=True, format="png", num_outputs=2, seed=seed)
    pictures = [
        [httpx.get(link).content for link in record["additionalData"]["temporaryUrls"]] for record in (first, again)
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0][0] != pictures[0][1]


def test_uploads_of_one_name_in_one_moment_get_keys_of_their_own(client: httpx.Client) -> None:
    data = encoded(picture(), "PNG")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: upload(client, data)["key"], range(24)))
    assert len(set(keys)) == 24


@pytest.mark.parametrize("header", ["API-KEY", "Authorization", "X-Auth-Token"])
def test_the_key_is_taken_from_any_of_three_headers(stack: Stack, header: str) -> None:
    key = stack.told["api_key"]
    value = key if header == "API-KEY" else f"Bearer {key}"
    answer = httpx.get(f"{stack.told['api_url']}/api/results/unknown", headers={header: value})
    assert (answer.status_code, answer.json()) == (200, {"aiRecord": None})


def submission(prompt: dict[str, Any]) -> dict[str, Any]:
    return {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": prompt}


@pytest.mark.parametrize(
    ("status", "code", "message", "files"),
    [
        (415, "UNSUPPORTED_MEDIA_TYPE", "a GIF; allowed are PNG, JPEG, WEBP", {"asset": encoded(picture(), "GIF")}),
        (400, "INVALID_IMAGE", "truncated", {"asset": encoded(picture(300, 300), "JPEG")[:2000]}),
        (400, "INVALID_IMAGE", "empty", {"asset": b""}),
        (413, "PAYLOAD_TOO_LARGE", "50000000", {"asset": b"x" * 50_000_001}),
        (413, "PAYLOAD_TOO_LARGE", "50000000", {"asset": b"x" * 60_000_000}),
        (400, "VALIDATION_ERROR", "asset: is required and missing", {"picture": encoded(picture(), "PNG")}),
    ],
)
def test_nothing_of_a_refused_upload_is_stored(
    stack: Stack, client: httpx.Client, status: int, code: str, message: str, files: dict[str, bytes]
) -> None:
    before = stack.object_files(), stack.reservations()
    answer = client.post("/api/assets", files=files)
    assert answer.status_code == status
    assert error_of(answer)["errorCode"] == code
    assert message in answer.json()["message"]
    assert (stack.object_files(), stack.reservations()) == before


def test_an_upload_without_content_length_is_counted_while_it_is_read(client: httpx.Client) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="asset"; filename="a.png"\r\n\r\n'

    def endless() -> Any:
        yield head
        for _ in range(1000):
            yield b"x" * 100_000

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/api/assets", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert error_of(answer)["errorCode"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"{", "application/json", "body: is not JSON"),
        (b"[]", "application/json", "body"),
        (b"[" * 5000, "application/json", "body: is not JSON"),
        (b'{"promptObject": {"x": 1e999}}', "application/json", "body: is not JSON"),
        (b'{"promptObject": {"x": "\\ud800"}}', "application/json", "body: is not JSON"),
        (b"a=1", "multipart/form-data", "must be application/json, not multipart/form-data"),
        (b"{}", "text/plain; charset=utf-8", "must be application/json, not text/plain"),
        (b'{"a": "' + b"x" * 1_000_000 + b'"}', "application/json", "larger than the 1000000 bytes"),
    ],
)
def test_a_body_that_is_no_json_is_told_so(
    client: httpx.Client, content: bytes, content_type: str, message: str
) -> None:
    answer = client.post("/api/features", content=content, headers={"content-type": content_type})
    assert answer.status_code == (413 if "larger" in message else 415 if "must be" in message else 400)
    assert message in error_of(answer)["message"]


@pytest.mark.parametrize("image", ["//[", "..", "images/%00", "\U0001f600", "ftp://example.com/a.png"])
def test_an_image_that_is_no_address_is_told_so(client: httpx.Client, image: str) -> None:
    answer = client.post("/api/features", json=submission({"imageUrl": image}))
    assert answer.status_code == 400
    assert "there is no image" in error_of(answer)["message"]


@pytest.mark.parametrize("image", ["http://[::1", "http://[x]/", "https://example.com/cat.png"])
def test_an_address_elsewhere_is_refused_unless_the_operator_allows_it(client: httpx.Client, image: str) -> None:
    answer = client.post("/api/features", json=submission({"imageUrl": image}))
    assert answer.status_code == 400
    assert error_of(answer)["error"]["details"][0]["field"] == "promptObject.imageUrl"
    assert "not allowed here; upload the image first" in answer.json()["message"]


def test_a_body_as_deep_as_json_may_be_makes_a_job_that_ends(client: httpx.Client, source: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(195):
        deep = [deep]
    prompt = {"imageUrl": source["key"], "megapixels": "0.25", "num_inference_steps": 1}
    answer = client.post("/api/features", json=submission(prompt) | {"metadata": deep})
    assert answer.status_code == 200
    assert answer.json()["aiRecord"]["status"] == "SUCCESS"
    assert answer.json()["aiRecord"]["metadata"] == deep


def test_a_form_that_is_none_is_told_so(client: httpx.Client) -> None:
    for content_type, status in (
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=b", 400),
        ("multipart/form-data; boundary=b; charset=utf-7", 415),
        ("Multipart/Form-Data; boundary=b; charset=UTF-8", 400),
        ("application/json", 415),
    ):
        answer = client.post("/api/assets", content=b"rubbish", headers={"content-type": content_type})
        assert answer.status_code == status
        error_of(answer)


def test_errors_keep_their_shape_on_every_route(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("POST", "/api/features/", 404),
        ("DELETE", "/api/features", 405),
        ("PUT", "/healthz", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        error_of(answer)


def test_wrong_parameters_are_refused_with_field_value_and_what_is_allowed(
    client: httpx.Client, source: dict[str, Any]
) -> None:
    answer = client.post("/api/features", json=submission({"imageUrl": source["key"], "num_outputs": 5}))
    assert answer.status_code == 400
    assert error_of(answer)["error"]["details"] == [
        {
            "field": "promptObject.num_outputs",
            "value": 5,
            "message": "must be a whole number from 1 to 4, not 5",
        }
    ]


def test_a_callers_request_id_comes_back_and_stands_in_the_record(client: httpx.Client, source: dict[str, Any]) -> None:
    body = submission({"imageUrl": source["key"], "megapixels": "0.25", "num_inference_steps": 1})
    answer = client.post("/api/features", json=body | {"async": True}, headers={"x-request-id": "my-42"})
    assert answer.headers["x-request-id"] == "my-42"
    assert answer.json()["aiRecord"]["additionalData"]["requestId"] == "my-42"
    odd = client.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert odd.headers["x-request-id"] != "a b\tc"
