import json
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.onemin_requests import parse_submission
from api.onemin_view import MODEL
from api.submission import Draft
from shared.egress import Egress
from shared.errors import InvalidRequest, UnsupportedModel
from shared.jobs import OutputFormat, Webhook, WebhookEvent
from shared.settings import EgressSettings
from shared.sizes import AspectRatio, Megapixels

WAIT = timedelta(seconds=50)
EGRESS = Egress(EgressSettings())


def body(**prompt: Any) -> dict[str, Any]:
    return {"type": "IMAGE_VARIATOR", "model": MODEL, "promptObject": {"imageUrl": "images/cat.png", **prompt}}


def parse(sent: Any) -> Draft:
    return parse_submission(sent, "request-1", WAIT, EGRESS)[0]


def test_what_is_left_open_gets_the_published_defaults() -> None:
    draft, source = parse_submission(body(), "request-1", WAIT, EGRESS)
    assert source == "images/cat.png"
    assert draft.wait == WAIT
    assert draft.parameters == {
        "aspect_ratio": AspectRatio.STANDARD,
        "num_outputs": 1,
        "num_inference_steps": 28,
        "seed": None,
        "output_quality": 80,
        "disable_safety_checker": False,
        "megapixels": Megapixels.ONE,
        "output_format": OutputFormat.WEBP,
    }


@pytest.mark.parametrize(
    ("name", "sent", "meant"),
    [
        ("num_outputs", "4", 4),
        ("num_outputs", 2.0, 2),
        ("num_inference_steps", "50", 50),
        ("seed", 0, 0),
        ("seed", "0", 0),
        ("seed", 2**32 - 1, 2**32 - 1),
        ("seed", None, None),
        ("output_quality", "100", 100),
        ("megapixels", 0.25, Megapixels.QUARTER),
        ("megapixels", "0.25", Megapixels.QUARTER),
        ("megapixels", 1, Megapixels.ONE),
        ("megapixels", 1.0, Megapixels.ONE),
        ("disable_safety_checker", "true", True),
        ("aspect_ratio", "9:21", AspectRatio.ULTRA_TALL),
        ("num_outputs", None, 1),
    ],
)
def test_numbers_may_come_as_strings_and_nulls_mean_the_default(name: str, sent: object, meant: object) -> None:
    assert parse(body(**{name: sent})).parameters[name] == meant


@pytest.mark.parametrize(
    ("prompt", "source", "num_outputs"),
    [
        ({"imageList": ["a", "b"], "numImages": "2"}, "a", 2),
        ({"redux_image": "a", "num_images": 3}, "a", 3),
        ({"image_url": "a", "n": 4}, "a", 4),
        ({"image_url": "a", "imageUrl": "b", "n": 4, "num_outputs": 2}, "b", 2),
    ],
)
def test_what_other_clients_call_a_parameter_is_understood(
    prompt: dict[str, Any], source: str, num_outputs: int
) -> None:
    sent = {"type": "IMAGE_VARIATOR", "model": MODEL, "promptObject": prompt | {"output_format": "jpeg"}}
    draft, reference = parse_submission(sent, "request-1", WAIT, EGRESS)
    assert (reference, draft.parameters["num_outputs"]) == (source, num_outputs)
    assert draft.parameters["output_format"] is OutputFormat.JPG
    assert json.loads(draft.echo.prompt_object) == sent["promptObject"]


def test_a_wrong_parameter_is_named_as_the_client_named_it() -> None:
    with pytest.raises(InvalidRequest, match=r"promptObject.numImages: must be a whole number from 1 to 4, not 5"):
        parse(body(numImages=5))
    with pytest.raises(InvalidRequest, match=r"promptObject.imageUrl: is required and missing"):
        parse({"type": "IMAGE_VARIATOR", "model": MODEL, "promptObject": {"imageList": []}})


def test_jpeg_is_jpg() -> None:
    assert parse(body(format="jpeg")).parameters["output_format"] is OutputFormat.JPG


def test_the_prompt_object_is_echoed_as_sent() -> None:
    sent = body(num_outputs="2", surprise={"a": [1]})
    assert json.loads(parse(sent).echo.prompt_object) == sent["promptObject"]


def test_nulls_mean_the_default_beside_the_prompt_object_too() -> None:
    assert parse(body() | {"async": None, "metadata": None}).wait


def test_a_large_value_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(format="x" * 10_000))
    assert len(str(caught.value.details)) < 1_000


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"num_outputs": 5}, "promptObject.num_outputs: must be a whole number from 1 to 4, not 5"),
        ({"num_outputs": 0}, "from 1 to 4, not 0"),
        ({"num_outputs": True}, "promptObject.num_outputs: must be a whole number from 1 to 4, not True"),
        ({"num_outputs": 1.5}, "from 1 to 4, not 1.5"),
        ({"num_outputs": "two"}, "from 1 to 4, not 'two'"),
        ({"num_outputs": [1]}, "from 1 to 4"),
        ({"seed": 1e300}, "from 0 to 4294967295"),
        ({"megapixels": True}, "promptObject.megapixels: .* not True"),
        ({"megapixels": 10**400}, "promptObject.megapixels"),
        ({"megapixels": 0.2500000001}, "promptObject.megapixels"),
        ({"num_inference_steps": 51}, "from 1 to 50, not 51"),
        ({"seed": -1}, "promptObject.seed: must be a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "not 4294967296"),
        ({"output_quality": "0"}, "from 1 to 100, not '0'"),
        ({"format": "gif"}, "promptObject.format: input should be 'webp', 'jpg' or 'png', not 'gif'"),
        ({"aspect_ratio": "7:3"}, "promptObject.aspect_ratio: .*'21:9'.*, not '7:3'"),
        ({"megapixels": "4"}, "promptObject.megapixels: input should be '1' or '0.25', not '4'"),
        ({"disable_safety_checker": "maybe"}, "promptObject.disable_safety_checker: .* not 'maybe'"),
        ({"imageUrl": None}, "promptObject.imageUrl: is required and missing"),
        ({"imageUrl": 5}, "promptObject.imageUrl: .* not 5"),
        ({"imageUrl": ""}, "promptObject.imageUrl"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_is_allowed(prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse(body(**prompt))
    assert caught.value.details


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(num_outputs=9, format="gif") | {"type": "CHAT"})
    assert [detail["field"] for detail in caught.value.details] == [
        "type",
        "promptObject.format",
        "promptObject.num_outputs",
    ]


def test_another_model_is_refused_in_the_originals_words() -> None:
    with pytest.raises(UnsupportedModel, match=r"^Model dall-e-2 is not supported$"):
        parse(body() | {"model": "dall-e-2"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["imageUrl", "format", "aspect_ratio", "num_outputs", "seed", "output_quality", "megapixels"])


@given(json_values | st.fixed_dictionaries({"promptObject": json_values}, optional={"async": json_values}))
def test_no_body_gets_past_in_any_other_way_than_as_an_error_of_ours(sent: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse(sent)


@given(st.dictionaries(names, json_values, max_size=4))
def test_no_parameter_gets_past_in_any_other_way_than_as_an_error_of_ours(prompt: dict[str, Any]) -> None:
    try:
        draft = parse(body(**prompt))
    except InvalidRequest:
        return
    assert 1 <= draft.parameters["num_outputs"] <= 4


def test_priority_and_deadlines_stand_beside_the_prompt() -> None:
    plain = parse(body())
    assert (plain.low_priority, plain.max_queue, plain.max_run) == (False, None, None)
    asked = parse(body() | {"priority": "low", "maxQueueSeconds": 60, "maxRunSeconds": "5"})
    assert (asked.low_priority, asked.max_queue, asked.max_run) == (True, timedelta(seconds=60), timedelta(seconds=5))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"priority": "high"}, "priority: input should be 'normal' or 'low', not 'high'"),
        ({"maxQueueSeconds": 0}, "maxQueueSeconds: must be a whole number from 1 to 31536000, not 0"),
        ({"maxRunSeconds": 1.5}, "maxRunSeconds: must be a whole number from 1 to 31536000, not 1.5"),
    ],
)
def test_a_wrong_priority_or_deadline_is_named(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        parse(body() | asked)


URL = "https://example.com/jobs?token=1"


@pytest.mark.parametrize(
    ("asked", "events"),
    [
        ({}, (WebhookEvent.FINISHED,)),
        ({"webhookEvents": None}, (WebhookEvent.FINISHED,)),
        ({"webhookEvents": ["job.started", "job.finished"]}, (WebhookEvent.STARTED, WebhookEvent.FINISHED)),
    ],
)
def test_a_webhook_hears_of_the_end_unless_it_asks_for_more(asked: Any, events: tuple[WebhookEvent, ...]) -> None:
    assert parse(body() | {"webhook": URL} | asked).webhook == Webhook(url=URL, events=events)
    assert parse(body() | asked).webhook is None


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        ({"webhook": "http://example.com/"}, "webhook", "the URL must start with https://"),
        ({"webhook": "https://us:secret@example.com/"}, "webhook", "the URL must not contain a user name"),
        ({"webhook": "https://example.com:8443/"}, "webhook", "the URL's port must be 443"),
        ({"webhook": "https://xn--a/"}, "webhook", "is not a URL"),
        ({"webhook": ""}, "webhook", "the URL must start with https://"),
        ({"webhook": 5}, "webhook", "should be a valid string"),
        ({"webhook": URL + "x" * 2048}, "webhook", "at most 2048 characters"),
        ({"webhook": URL, "webhookEvents": []}, "webhookEvents", "at least 1 item"),
        ({"webhook": URL, "webhookEvents": ["job.canceled"]}, "webhookEvents.0", "'job.started' or 'job.finished'"),
    ],
)
def test_a_webhook_that_cannot_be_called_is_refused(asked: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)) as refused:
        parse(body() | asked)
    assert [detail["field"] for detail in refused.value.details] == [field]


def test_an_operator_can_forbid_webhooks() -> None:
    with pytest.raises(InvalidRequest, match="webhook: webhooks are not allowed here"):
        parse_submission(body() | {"webhook": URL}, "request-1", WAIT, Egress(EgressSettings(webhooks=False)))
