"""The OpenAI facade, as the Python and Node packages of OpenAI use it."""

import asyncio
import base64
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import openai
import pytest
from PIL import Image

from shared.connections import run
from shared.teams import set_credit
from tests.clients.conftest import Call
from tests.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore:deprecated$:DeprecationWarning")  # the packages' word for the method
NAMED = {"model", "n", "response_format", "size", "user"}  #: parameters that PyPI's openai knows
QUICK: dict[str, Any] = {"num_inference_steps": 2}
SMALL: dict[str, Any] = {"size": "512x512"} | QUICK


def vary(stack: Stack, image: Any, prefix: str = "/v1/openai", key: str | None = None, **parameters: Any) -> Any:
    """Call PyPI's openai; what it has no name for travels in ``extra_body``."""
    extra = {name: parameters.pop(name) for name in list(parameters) if name not in NAMED}
    with openai.OpenAI(
        base_url=stack.told["api_url"] + prefix, api_key=key or stack.told["api_key"], max_retries=0
    ) as client:
        return client.images.create_variation(image=image, **parameters, extra_body=extra)


def decoded(data: list[dict[str, Any]]) -> list[tuple[str | None, tuple[int, int]]]:
    """Return each picture's format and size."""
    seen = []
    for item in data:
        assert item["revised_prompt"] is None
        with Image.open(BytesIO(base64.b64decode(item["b64_json"]))) as image:
            image.load()
            seen.append((image.format, image.size))
    return seen


def test_an_image_alone_is_enough_in_python(stack: Stack, photo: Path) -> None:
    answer = vary(stack, photo.read_bytes())
    assert abs(answer.created - time.time()) < 100
    assert decoded(answer.model_dump()["data"]) == [("JPEG", (1024, 1024))]
    assert answer._request_id


def test_an_image_alone_is_enough_in_node(vary_in_node: Call) -> None:
    result = vary_in_node(image=None)
    assert abs(result["answer"]["created"] - time.time()) < 100
    assert decoded(result["answer"]["data"]) == [("JPEG", (1024, 1024))]
    assert result["requestId"]


@pytest.mark.parametrize(
    "shape",
    [
        Path,
        lambda path: path.read_bytes(),
        lambda path: BytesIO(path.read_bytes()),
        lambda path: ("Katze ü.png", path.read_bytes(), "image/png"),
        lambda path: ("cat.jpg", path.read_bytes(), "image/jpeg"),
    ],
    ids=["path", "bytes", "stream", "named", "misnamed"],
)
def test_python_sends_an_image_in_any_shape(stack: Stack, photo: Path, shape: Callable[[Path], Any]) -> None:
    assert decoded(vary(stack, shape(photo), **SMALL).model_dump()["data"]) == [("JPEG", (512, 512))]


@pytest.mark.parametrize("shape", ["stream", "blob", "file", "bytes"])
def test_node_sends_an_image_in_any_shape_with_the_model_after_it(vary_in_node: Call, shape: str) -> None:
    result = vary_in_node(shape, image=None, model="black-forest-labs/FLUX-1-Redux-dev", **SMALL)
    assert decoded(result["answer"]["data"]) == [("JPEG", (512, 512))]


def test_every_parameter_arrives_from_python(stack: Stack, photo: Path) -> None:
    chosen: dict[str, Any] = {
        "n": 2,
        "size": "672x384",
        "model": "black-forest-labs/FLUX-1-Redux-dev",
        "response_format": "b64_json",
        "user": "somebody",
        "seed": 0,
        **QUICK,
    }
    first, again = (vary(stack, photo, **chosen).model_dump()["data"] for _ in range(2))
    assert decoded(first) == [("JPEG", (672, 384))] * 2
    assert first == again
    assert first[0] != first[1]


def test_every_parameter_arrives_from_node(vary_in_node: Call) -> None:
    chosen = {"n": 2, "size": "672x384", "user": "somebody", "seed": 0, **QUICK, "image": None}
    first, again = (vary_in_node(shape, **chosen)["answer"]["data"] for shape in ("stream", "file"))
    assert decoded(first) == [("JPEG", (672, 384))] * 2
    assert first == again


def test_the_asynchronous_python_client_is_served_alike(stack: Stack, photo: Path) -> None:
    async def both() -> list[Any]:
        url = f"{stack.told['api_url']}/v1/openai"
        async with openai.AsyncOpenAI(base_url=url, api_key=stack.told["api_key"], max_retries=0) as client:
            sent = [
                client.images.create_variation(image=photo, size="512x512", extra_body={"seed": seed, **QUICK})
                for seed in (1, 2)
            ]
            return await asyncio.gather(*sent)

    one, two = (answer.model_dump()["data"] for answer in asyncio.run(both()))
    assert decoded(one) == decoded(two)
    assert one != two


@pytest.mark.parametrize("prefix", ["/v1/openai", "/v1", "/api/v1"])
def test_every_prefix_is_served(stack: Stack, photo: Path, prefix: str) -> None:
    assert decoded(vary(stack, photo, prefix, **SMALL).model_dump()["data"])


def test_a_picture_comes_as_a_link_for_an_hour(stack: Stack, photo: Path, vary_in_node: Call) -> None:
    from_python = vary(stack, photo, response_format="url", **SMALL).model_dump()["data"]
    from_node = vary_in_node(image=None, response_format="url", **SMALL)["answer"]["data"]
    for item in (*from_python, *from_node):
        assert item.get("b64_json") is None
        assert parse_qs(urlsplit(item["url"]).query)["X-Amz-Expires"] == ["3600"]
        with Image.open(BytesIO(httpx.get(item["url"]).content)) as image:
            assert (image.format, image.size) == ("JPEG", (512, 512))


@pytest.mark.parametrize(
    ("parameters", "kind", "status", "code", "param", "said"),
    [
        ({"n": 5}, "BadRequestError", 400, "invalid_value", "n", "1 to 4"),
        ({"n": 0}, "BadRequestError", 400, "invalid_value", "n", "1 to 4"),
        ({"size": "256x256"}, "BadRequestError", 400, "invalid_value", "size", "1344x768"),
        ({"response_format": "png"}, "BadRequestError", 400, "invalid_value", "response_format", "b64_json"),
        ({"num_inference_steps": 51}, "BadRequestError", 400, "invalid_value", "num_inference_steps", "1 to 50"),
        ({"model": "dall-e-9"}, "NotFoundError", 404, "model_not_found", "model", "dall-e-9"),
        ({"key": "rq_bad"}, "AuthenticationError", 401, "invalid_api_key", None, "key"),
    ],
)
def test_an_error_has_its_class_its_code_and_its_parameter(
    stack: Stack,
    photo: Path,
    vary_in_node: Call,
    parameters: dict[str, Any],
    kind: str,
    status: int,
    code: str,
    param: str | None,
    said: str,
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        vary(stack, photo, **parameters)
    error = caught.value
    in_node = vary_in_node(image=None, **parameters)["error"]
    assert (type(error).__name__, error.status_code, error.code, error.param) == (kind, status, code, param)
    assert [in_node[name] for name in ("kind", "status", "code", "param")] == [kind, status, code, param]
    assert said in error.message
    assert said in in_node["message"]
    assert error.type == in_node["type"] == "invalid_request_error"
    assert error.request_id
    assert in_node["requestID"]


def test_what_is_no_image_is_refused(stack: Stack) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        vary(stack, b"GIF, or so it says")
    assert (caught.value.status_code, caught.value.param) == (415, "image")


def test_a_missing_image_is_named(vary_in_node: Call) -> None:
    error = vary_in_node(n=1)["error"]
    assert (error["kind"], error["param"]) == ("BadRequestError", "image")


def test_without_credit_nothing_is_made_nor_asked_again(stack: Stack, photo: Path, vary_in_node: Call) -> None:
    key = stack.new_key("poor-openai")
    with stack.records() as records:
        run(records, set_credit("poor-openai", 35))
    with pytest.raises(openai.APIStatusError, match="the poor-openai team only has 35 credits") as caught:
        vary(stack, photo, key=key)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.status_code not in {408, 409, 429}
    assert caught.value.status_code < 500
    assert "only has 35 credits" in vary_in_node(key=key, image=None)["error"]["message"]


def test_a_path_that_does_not_exist_is_an_error_that_can_be_read(stack: Stack, photo: Path) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        vary(stack, photo, "/v1/openai/v2")
    assert "/v1/openai/v2/images/variations" in caught.value.message
    assert caught.value.code
