"""What ``GET /api/assets/{key}`` tells of an image, and to whom."""

import httpx
import pytest

from shared.connections import run
from shared.keys import create_key
from tests.driven import Driven
from tests.samples import encoded, picture
from tests.stack import upload

PNG = encoded(picture(), "PNG")


@pytest.fixture
def key(driven: Driven) -> str:
    """An uploaded image's."""
    return str(upload(driven.client, PNG)["key"])


def test_an_image_is_described_with_a_link_to_look_at_it_and_one_to_keep_it(driven: Driven, key: str) -> None:
    asset = driven.client.get(f"/api/assets/{key}").raise_for_status().json()["asset"]
    assert (asset["key"], asset["contentType"], asset["size"]) == (key, "image/png", len(PNG))
    shown, kept = httpx.get(asset["temporaryUrl"]), httpx.get(asset["downloadUrl"])
    assert shown.content == kept.content == PNG
    assert "content-disposition" not in shown.headers
    assert kept.headers["content-disposition"] == f'attachment; filename="{key.removeprefix("images/")}"'


def test_an_image_of_another_team_or_one_that_was_deleted_is_not_told(driven: Driven, key: str) -> None:
    stranger = run(driven.records, create_key("strangers", "Eve"))
    assert driven.client.get(f"/api/assets/{key}", headers={"API-KEY": stranger}).status_code == 404
    driven.client.delete(f"/api/assets/{key}").raise_for_status()
    answer = driven.client.get(f"/api/assets/{key}")
    assert (answer.status_code, answer.json()["message"]) == (404, f"there is no image {key!r}")


def test_a_record_names_its_source(driven: Driven, key: str) -> None:
    body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "async": True}
    sent = body | {
        "promptObject": {"imageUrl": driven.client.get(f"/api/assets/{key}").json()["asset"]["temporaryUrl"]}
    }
    record = driven.client.post("/api/features", json=sent).raise_for_status().json()["aiRecord"]
    assert record["additionalData"]["source"] == key
