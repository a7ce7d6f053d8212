"""The object store on a real S3 server."""

import time
from datetime import timedelta
from io import BytesIO
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from shared.errors import Misconfigured, NotFound, StorageUnavailable
from shared.ids import AssetKey
from shared.object_store import ObjectStore
from shared.settings import StorageSettings
from tests.memory.objects import MemoryObjects
from tests.scripted import Answer, scripted
from tests.servers import free_port

KEY = AssetKey("images/a cat & co.png")


@pytest.fixture(params=["real", "memory"])
def either(request: pytest.FixtureRequest, objects: ObjectStore) -> ObjectStore:
    """The real store, or the one that stands in for it."""
    return objects if request.param == "real" else MemoryObjects()


def test_what_is_put_is_got_until_it_is_deleted(either: ObjectStore) -> None:
    etag = either.put(KEY, BytesIO(b"bytes"), "image/png")
    assert etag.startswith('"')
    assert either.get(KEY) == b"bytes"
    either.delete(KEY)
    either.delete(KEY)
    with pytest.raises(NotFound):
        either.get(KEY)


def test_a_link_works_and_one_changed_character_breaks_it(objects: ObjectStore) -> None:
    objects.put(KEY, b"bytes", "image/png")
    link = objects.sign(KEY)
    assert "X-Amz-Expires=604800" in link
    assert httpx.get(link).content == b"bytes"
    changed = link[:-1] + ("0" if link[-1] != "0" else "1")
    assert httpx.get(changed).status_code == 403
    assert httpx.get(link.replace("604800", "604799")).status_code == 403
    assert httpx.get(link.partition("?")[0]).status_code in {400, 403}


def test_an_expired_link_no_longer_works(objects: ObjectStore, storage: StorageSettings) -> None:
    brief = ObjectStore(storage.model_copy(update={"link_seconds": timedelta(seconds=3)}))
    objects.put(KEY, b"bytes", "image/png")
    link = brief.sign(KEY)
    assert httpx.get(link).status_code == 200
    time.sleep(4.1)
    assert httpx.get(link).status_code in {400, 403}


def test_links_name_the_public_endpoint_and_lead_back_to_their_key(storage: StorageSettings) -> None:
    store = ObjectStore(storage.model_copy(update={"public_endpoint": "https://images.example/s3"}))
    link = store.sign(KEY)
    assert link.startswith("https://images.example/s3/tests/images/a%20cat%20%26%20co.png?")
    assert store.key_of(link) == KEY
    assert store.key_of(store.location(KEY)) == KEY
    for foreign in ("images/cat.png", "https://evil.example/s3/tests/images/cat.png", "https://images.example/x/tests"):
        assert store.key_of(foreign) is None


def test_a_storage_that_is_away_is_told_from_one_that_refuses_us(storage: StorageSettings) -> None:
    away = ObjectStore(storage.model_copy(update={"endpoint": f"http://127.0.0.1:{free_port()}"}))
    with pytest.raises(StorageUnavailable, match="does not answer"):
        away.get(KEY)
    wrong = ObjectStore(storage.model_copy(update={"secret_key": SecretStr("wrong-secret")}))
    with pytest.raises(Misconfigured, match="refuses us"):
        wrong.put(KEY, b"bytes", "image/png")


CUT = Answer(200, b"half", {"content-length": "8", "connection": "close"})
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def test_bytes_pass_the_client_by(storage: StorageSettings) -> None:
    def fail(**_: Any) -> None:
        raise AssertionError("the client was asked")

    store = ObjectStore(storage)
    store._client.meta.events.register("before-call.s3", fail)
    assert store.put(KEY, b"bytes", "image/png").startswith('"')
    assert store.get(KEY) == b"bytes"
    with pytest.raises(AssertionError):
        store.delete(KEY)


@pytest.mark.parametrize(
    ("answer", "calls"), [(CUT, 2), (Answer(503, SLOW_DOWN), 2), (Answer(None), 1)], ids=["cut", "refused", "none"]
)
def test_an_object_is_got_whole_or_not_at_all(storage: StorageSettings, answer: Answer, calls: int) -> None:
    with scripted(answer) as script, pytest.raises(StorageUnavailable):
        ObjectStore(storage.model_copy(update={"endpoint": script.url}), tries=1).get(KEY)
    assert len(script.asked) == calls
    with scripted(answer, Answer(200, b"the whole")) as script:
        assert ObjectStore(storage.model_copy(update={"endpoint": script.url})).get(KEY) == b"the whole"


def test_an_object_that_is_not_there_is_told_from_others_whatever_length_the_answer_claims(
    storage: StorageSettings,
) -> None:
    with (
        scripted(Answer(404, b"", {"content-length": "0, 0", "connection": "close"})) as script,
        pytest.raises(NotFound),
    ):
        ObjectStore(storage.model_copy(update={"endpoint": script.url}), tries=1).get(KEY)


def test_an_object_counts_as_stored_only_if_nothing_but_its_etag_is_said(storage: StorageSettings) -> None:
    etag = {"etag": '"1"'}
    with scripted(Answer(200, SLOW_DOWN, etag), Answer(200, SLOW_DOWN, etag), Answer(200, b"", etag)) as script:
        store = ObjectStore(storage.model_copy(update={"endpoint": script.url}), tries=1)
        with pytest.raises(StorageUnavailable):
            store.put(KEY, b"bytes", "image/png")
        assert store.put(KEY, b"bytes", "image/png") == '"1"'
    assert [(asked.method, asked.body) for asked in script.asked] == 3 * [("PUT", b"bytes")]
    assert {asked.headers["user-agent"].partition(" ")[0] for asked in script.asked} == {"reduxq"}
