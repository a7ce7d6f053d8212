"""The OpenAI facade, over HTTP, on the whole stack."""

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image

from shared.connections import run
from shared.teams import set_credit
from tests.samples import encoded, picture
from tests.stack import Stack, result

PATHS = ("/v1/openai/images/variations", "/v1/images/variations", "/api/v1/images/variations")
IMAGE = encoded(picture(640, 480), "PNG")
QUICK = {"num_inference_steps": "1", "size": "512x512"}


def vary(client: httpx.Client, path: str = PATHS[0], **fields: Any) -> httpx.Response:
    return client.post(path, files={"image": ("cat.png", IMAGE)}, data=QUICK | fields)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, whose shape never changes."""
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers["x-request-id"]
    return error


def pictures_of(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    return [Image.open(BytesIO(base64.b64decode(item["b64_json"]))) for item in answer.json()["data"]]


@pytest.mark.parametrize("path", PATHS)
def test_an_image_is_varied_on_every_path(client: httpx.Client, path: str) -> None:
    answer = vary(client, path, n="2")
    body = answer.json()
    assert set(body) == {"created", "data"}
    assert isinstance(body["created"], int)
    assert [set(item) for item in body["data"]] == [{"revised_prompt", "b64_json"}] * 2
    assert [(image.format, image.size) for image in pictures_of(answer)] == [("JPEG", (512, 512))] * 2
    assert answer.headers["x-request-id"]


def test_an_image_alone_is_enough(client: httpx.Client) -> None:
    (image,) = pictures_of(client.post(PATHS[1], files={"image": ("upload", IMAGE, "application/octet-stream")}))
    assert (image.format, image.size) == ("JPEG", (1024, 1024))


def test_links_are_given_when_asked_for(client: httpx.Client) -> None:
    (item,) = vary(client, response_format="url").json()["data"]
    assert set(item) == {"revised_prompt", "url"}
    assert "X-Amz-Expires=3600" in item["url"]
    assert Image.open(BytesIO(httpx.get(item["url"]).content)).format == "JPEG"


def test_our_own_parameters_are_fields_too_and_the_record_keeps_all(client: httpx.Client) -> None:
    fields = {"aspect_ratio": "16:9", "megapixels": "0.25", "seed": "5", "output_format": "png", "user": "u-1"}
    answer = client.post(
        PATHS[0], files={"image": IMAGE}, data={"num_inference_steps": "1", "n": "2", **fields}, timeout=60
    )
    assert [(image.format, image.size) for image in pictures_of(answer)] == [("PNG", (672, 384))] * 2
    record = result(client, answer.headers["x-job-id"])
    assert record["additionalData"]["user"] == "u-1"
    assert record["additionalData"]["seeds"] == [5, 6]
    assert record["aiRecordDetail"]["promptObject"]["aspect_ratio"] == "16:9"
    assert record["model"] == "black-forest-labs/FLUX-1-Redux-dev"


def test_fields_may_follow_a_file_of_unknown_length(client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="upload"\r\n\r\n'
        yield IMAGE
        for name, value in (QUICK | {"model": "black-forest-labs/flux-redux-dev"}).items():
            yield f'\r\n--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        yield b"\r\n--b--\r\n"

    answer = client.post(PATHS[0], content=body(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert len(pictures_of(answer)) == 1


@pytest.mark.parametrize(
    ("fields", "status", "code", "param", "message"),
    [
        ({"n": "5"}, 400, "invalid_value", "n", "from 1 to 4, not '5'"),
        ({"size": "100x100"}, 400, "invalid_value", "size", "must be one of 1024x1024, 1344x768"),
        ({"response_format": "xml"}, 400, "invalid_value", "response_format", "'b64_json' or 'url'"),
        ({"model": "dall-e-2"}, 404, "model_not_found", "model", "'dall-e-2' does not exist"),
        ({"seed": "-1"}, 400, "invalid_value", "seed", "from 0 to 4294967295"),
        ({"aspect_ratio": "1:1"}, 400, "invalid_value", "aspect_ratio", "send one of them"),
    ],
)
def test_a_wrong_field_is_named(
    client: httpx.Client, fields: dict[str, str], status: int, code: str, param: str, message: str
) -> None:
    answer = vary(client, **fields)
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("files", "status", "code"),
    [
        ({"picture": IMAGE}, 400, "invalid_value"),
        ({"image": b"GIF89a" + bytes(50)}, 415, "unsupported_media_type"),
        ({"image": IMAGE[:2000]}, 400, "invalid_image"),
        ({"image": b"x" * 50_000_001}, 413, "payload_too_large"),
    ],
)
def test_nothing_of_a_refused_image_is_stored(
    stack: Stack, client: httpx.Client, files: dict[str, bytes], status: int, code: str
) -> None:
    before = stack.object_files(), stack.reservations()
    answer = client.post(PATHS[0], files=files)
    assert answer.status_code == status
    assert error_of(answer)["code"] == code
    assert (stack.object_files(), stack.reservations()) == before


@pytest.mark.parametrize("path", PATHS)
def test_every_error_has_openais_shape(client: httpx.Client, path: str) -> None:
    assert error_of(client.get(path))["code"] == "method_not_allowed"
    assert error_of(client.post(path + "/nowhere"))["code"] == "not_found"
    assert error_of(client.post(path + "/"))["code"] == "not_found"
    assert error_of(client.post(path, json={"n": 1}))["code"] == "unsupported_media_type"
    assert error_of(client.post(path, headers={"API-KEY": "rq_bad"}))["code"] == "invalid_api_key"


def test_a_team_without_credit_is_told_so_and_leaves_nothing(stack: Stack) -> None:
    with stack.client(stack.new_key("poor")) as poor, stack.records() as records:
        run(records, set_credit("poor", 10))
        before = stack.object_files(), stack.reservations()
        answer = vary(poor)
        assert answer.status_code == 402
        assert error_of(answer)["code"] == error_of(answer)["type"] == "insufficient_quota"
        assert "requires 120 credits, but the poor team only has 10 credits" in answer.json()["error"]["message"]
        assert (stack.object_files(), stack.reservations()) == before


def test_the_models_names_are_listed(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == [
        "black-forest-labs/FLUX-1-Redux-dev",
        "black-forest-labs/flux-redux-dev",
    ]
