"""The routes of 1min.ai's web application, as PyPI's 1minai-webapi uses them."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.connections import run
from shared.teams import set_credit
from tests.clients.conftest import Call
from tests.clients.tls_proxy import TlsProxy
from tests.stack import Stack


@pytest.fixture(scope="session")
def asset(onemin: Call, photo: Path) -> str:
    """An uploaded picture's key."""
    key: str = onemin("upload_asset", file_path=str(photo), asset_type="IMAGE")["answer"]["asset_key"]
    return key


def test_a_user_logs_in_and_sees_its_team_and_its_credit(onemin: Call, stack: Stack) -> None:
    key = stack.new_key("team-of-a-web-user")
    with stack.records() as records:
        run(records, set_credit("team-of-a-web-user", 1234))
    user = onemin("get_current_user", key)["answer"]
    assert user["user_id"]
    assert user["team_id"]
    assert user["team_name"] == "team-of-a-web-user"
    assert user["credit"] == 1234
    assert onemin("get_team_credits", key) == {"answer": 1234}


def test_a_file_is_uploaded_with_its_name_and_bytes(onemin: Call, stack: Stack, photo: Path) -> None:
    uploaded = onemin("upload_asset", file_path=str(photo), asset_type="IMAGE")["answer"]
    assert uploaded["asset_key"].endswith("_cat.png")
    assert uploaded["file_id"] == uploaded["metadata"]["fileContent"]["uuid"]
    assert uploaded["metadata"]["asset"]["mimetype"] == "image/png"
    assert stack.objects().get(uploaded["asset_key"]) == photo.read_bytes()


def test_a_file_that_says_nothing_of_its_type_is_known_by_its_bytes(onemin: Call, photo: Path, tmp_path: Path) -> None:
    nameless = tmp_path / "upload"
    nameless.write_bytes(photo.read_bytes())
    uploaded = onemin("upload_asset", file_path=str(nameless), asset_type="DOCUMENT")["answer"]
    assert uploaded["metadata"]["asset"]["mimetype"] == "image/png"


def test_variations_are_made_paid_for_and_downloaded(onemin: Call, asset: str, tmp_path: Path, proxy: TlsProxy) -> None:
    before = onemin("get_team_credits")["answer"]
    made = onemin("create_image_variation", image_url=asset)["answer"]
    record = made["metadata"]
    assert (record["status"], record["uuid"]) == ("SUCCESS", made["record_id"])
    assert [image["url"] for image in made["images"]] == record["aiRecordDetail"]["resultObject"]
    assert len(made["images"]) == 1
    saved = Path(onemin("save", url=record["temporaryUrl"], folder=str(tmp_path))["answer"])
    assert saved.name == made["images"][0]["url"].rsplit("/", 1)[-1]
    with Image.open(BytesIO(saved.read_bytes())) as image:
        assert (image.format, image.size) == ("WEBP", (1152, 896))
    assert before - onemin("get_team_credits")["answer"] == record["additionalData"]["price"]["charged"]
    assert set(proxy.hosts) == {"api.1min.ai:443"}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_current_user", {}),
        ("upload_asset", {"file_path": __file__}),
        ("create_image_variation", {"image_url": "images/x.png"}),
    ],
)
def test_a_bad_key_fails_to_log_in(onemin: Call, method: str, arguments: dict[str, Any]) -> None:
    assert onemin(method, "rq_bad", **arguments)["error"]["kind"] == "AuthenticationError"


def test_without_credit_nothing_is_made(onemin: Call, stack: Stack, photo: Path) -> None:
    key = stack.new_key("poor")
    with stack.records() as records:
        run(records, set_credit("poor", 35))
    asset = onemin("upload_asset", key, file_path=str(photo), asset_type="IMAGE")["answer"]["asset_key"]
    one, four = (onemin("create_image_variation", key, image_url=asset, num_images=n)["error"] for n in (1, 4))
    assert (one["kind"], one["status_code"]) == ("APIError", 406)
    assert "INSUFFICIENT_CREDITS" in one["message"]
    assert "but the poor team only has 35 credits" in one["message"]
    price_of_one, price_of_four = (int(re.findall(r"requires (\d+) credits", e["message"])[0]) for e in (one, four))
    assert price_of_four == pytest.approx(4 * price_of_one, abs=4)  # rounded up once for each job
    assert onemin("get_team_credits", key) == {"answer": 35}


def test_a_team_sees_only_itself(onemin: Call, stack: Stack, asset: str) -> None:
    error = onemin("create_image_variation", stack.new_key("strangers"), image_url=asset)["error"]
    assert (error["kind"], error["status_code"]) == ("APIError", 400)
    assert "image" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_url": "images/x.png", "model": "dzine"}, "Model dzine is not supported"),
        ({"image_url": "images/x.png", "num_images": 9}, "from 1 to 4, not 9"),
        ({"image_url": "images/none.png"}, "images/none.png"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(onemin: Call, arguments: dict[str, Any], said: str) -> None:
    error = onemin("create_image_variation", **arguments)["error"]
    assert (error["kind"], error["status_code"]) == ("APIError", 400)
    assert said in error["message"]


def test_what_is_no_image_is_not_taken(onemin: Call) -> None:
    error = onemin("upload_asset", file_path=__file__, asset_type="IMAGE")["error"]
    assert error["kind"] == "AssetUploadError"
    assert "UNSUPPORTED_MEDIA_TYPE" in error["message"]


@pytest.mark.parametrize(("feature", "models"), [("IMAGE_VARIATOR", 1), ("UNIFY_CHAT_WITH_AI", 0)])
def test_models_are_listed_by_feature(onemin: Call, feature: str, models: int) -> None:
    listed = onemin("list_models", feature=feature)["answer"]
    assert [model["modelId"] for model in listed] == ["black-forest-labs/flux-redux-dev"] * models
    assert all(feature in model["features"] for model in listed)
