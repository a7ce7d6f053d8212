"""What keeps the feeder's items waiting, and what fails them; on a real Valkey, a real bucket and a real web server."""

from contextlib import AbstractContextManager
from threading import Event
from typing import Final

import pytest
import redis
from pydantic import SecretStr

from api.batch_feeder import Feeder
from shared import batch_intake, batch_store
from shared.batch_intake import Staged
from shared.batch_store import Entry
from shared.batches import STATES, Line
from shared.connections import run
from shared.ids import BatchId
from shared.object_store import ObjectStore
from shared.settings import EgressSettings, RecordsSettings, Settings, StorageSettings
from tests.contract.test_batches import LIMITS, batch
from tests.samples import encoded, picture
from tests.servers import wait_until
from tests.tls_servers import Names, Pictures, reply
from tests.together import meanwhile

LEADER: Final = "one"


def feeding(settings: Settings) -> AbstractContextManager[None]:
    return meanwhile(lambda stop: Feeder(settings).run(stop, LEADER))


@pytest.fixture
def settings(valkey: str, records: redis.Redis, objects: ObjectStore, storage: StorageSettings) -> Settings:
    """Those of a feeder, whose dispatcher leads, and that may fetch images from here."""
    records.set("dispatcher:leader", LEADER)
    return Settings(
        records=RecordsSettings(url=SecretStr(valkey)),
        storage=storage,
        egress=EgressSettings.model_validate({"image_urls": True, "allowed_networks": ["127.0.0.0/8"]}),
    )


@pytest.fixture
def image(pictures: Pictures, names: Names) -> str:
    """The URL of an image elsewhere."""
    url = pictures.serve(reply(encoded(picture(), "PNG")))
    names.answers += [["127.0.0.1"]] * 1000
    return url


def accept(records: redis.Redis, *prompts: str) -> BatchId:
    lines = {number: Staged(Line(prompt=prompt)) for number, prompt in enumerate(prompts, start=1)}
    run(records, batch_intake.stage(BatchId("one"), lines))
    return run(records, batch_intake.accept(batch(), len(lines), 0, limits=LIMITS, once=None))


def entries(records: redis.Redis, batch_id: BatchId) -> list[Entry]:
    return run(records, batch_store.entries(batch_id, STATES, limit=100, after=0))


def test_a_storage_that_refuses_us_costs_no_item(settings: Settings, image: str, records: redis.Redis) -> None:
    batch_id = accept(records, *[f'{{"imageUrl": "{image}"}}'] * 12)
    wrong = settings.storage.model_copy(update={"secret_key": SecretStr("wrong-secret")})
    with feeding(settings.model_copy(update={"storage": wrong})):
        wait_until(lambda: records.zcard("objects:orphaned"))  # an image was to be stored
        Event().wait(3)
        assert {entry.state for entry in entries(records, batch_id)} == {"waiting"}
    with feeding(settings):
        wait_until(lambda: {entry.state for entry in entries(records, batch_id)} == {"queued"})


def test_an_item_that_fails_for_unknown_reasons_is_tried_as_often_as_a_job_and_holds_up_no_other_for_good(
    settings: Settings, image: str, records: redis.Redis
) -> None:
    good = f'{{"imageUrl": "{image}"}}'
    batch_id = accept(records, "[]", good, good)
    with feeding(settings):
        wait_until(lambda: entries(records, batch_id)[0].outcome.failed_attempts == 1)
        assert entries(records, batch_id)[0].state == "waiting"
        wait_until(lambda: [entry.state for entry in entries(records, batch_id)] == ["failed", "queued", "queued"])
    failure = entries(records, batch_id)[0].outcome.failure
    assert failure
    assert failure.message == "an unexpected error; the dispatcher's log has it"
