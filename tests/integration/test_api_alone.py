"""The API with no worker behind it, under settings that make its limits near."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis
import trustme

from shared import assets
from shared.assets import Asset
from shared.connections import run
from shared.errors import NotFound
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import Flagged, JobRecord
from shared.keys import check_key, create_key, revoke_key
from shared.object_store import ObjectStore
from shared.transitions import finish
from tests import queues, servers
from tests.samples import MODEL, NOW, encoded, picture, start, variations_of
from tests.servers import wait_until
from tests.tls_servers import Names, Pictures, listening, reply

IMAGE = encoded(picture(), "PNG")
PATH = "/v1/images/variations"
STORE = JobStore(timedelta(seconds=30))


@dataclass
class Alone:
    """An API, its records and who may call it."""

    client: httpx.Client
    records: redis.Redis
    objects: ObjectStore
    key: str

    def queued(self) -> int:
        return int(str(self.records.zcard("jobs:queued")))


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: str, records: redis.Redis, objects: ObjectStore, s3: str
) -> Iterator[Alone]:
    """An API with the settings that the test names."""
    key = run(records, create_key("lab", "Ada"))
    quick = {"REDUXQ_API__WAIT_SECONDS": "0.3", "REDUXQ_API__OPENAI_WAIT_SECONDS": "0.3"}
    environment = servers.settings_for(valkey, s3) | quick | getattr(request, "param", {})
    with (
        servers.api(tmp_path, environment) as url,
        httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=30) as client,
    ):
        yield Alone(client, records, objects, key)


def submit(alone: Alone, image: str, *, blocking: bool = False, **more: Any) -> httpx.Response:
    body = {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": {"imageUrl": image}}
    return alone.client.post("/api/features", json=body | {"async": not blocking} | more)


def upload(alone: Alone) -> str:
    return str(alone.client.post("/api/assets", files={"asset": IMAGE}).json()["asset"]["key"])


def test_a_record_shows_its_webhook_and_a_wrong_one_is_named(alone: Alone) -> None:
    image, url = upload(alone), "https://example.com/jobs"
    answer = submit(alone, image, webhook=url, webhookEvents=["job.started"])
    shown = answer.json()["aiRecord"]["additionalData"]["webhook"]
    assert shown == {"url": url, "events": ["job.started"], "deliveries": []}
    refused = submit(alone, image, webhook="http://example.com/jobs")
    assert refused.status_code == 400
    assert refused.json()["error"]["details"][0]["field"] == "webhook"


def test_when_a_wait_runs_out_the_record_says_processing(alone: Alone) -> None:
    answer = submit(alone, upload(alone), blocking=True)
    assert answer.status_code == 200
    assert answer.json()["aiRecord"]["status"] == "PROCESSING"


def test_when_a_wait_runs_out_openais_sdk_asks_again_for_the_same_job(alone: Alone) -> None:
    client = openai.OpenAI(base_url=f"{alone.client.base_url}/v1", api_key=alone.key, max_retries=2)
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(openai.InternalServerError) as caught:
        client.images.create_variation(image=IMAGE)
    assert (caught.value.status_code, caught.value.code) == (503, "still_running")
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "2"
    assert alone.queued() == 1


@pytest.mark.parametrize(
    "alone", [{"REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "3", "REDUXQ_API__MAX_UPLOAD_BYTES": "100000"}], indirect=True
)
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_openais_sdk_tells_apart_too_large_too_often_and_reused(alone: Alone) -> None:
    client = openai.OpenAI(base_url=f"{alone.client.base_url}/v1", api_key=alone.key, max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.create_variation(image=IMAGE + bytes(100_000))
    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")
    keyed: Any = {"extra_headers": {"Idempotency-Key": "one"}}
    with pytest.raises(openai.InternalServerError):
        client.images.create_variation(image=IMAGE, **keyed)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.create_variation(image=IMAGE, n=2, **keyed)
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.create_variation(image=IMAGE)
    assert caught.value.code == "rate_limit_exceeded"


def test_an_upload_that_ends_after_its_image_was_deleted_does_not_bring_it_back(alone: Alone) -> None:
    me = run(alone.records, check_key(alone.key))
    reserved = Asset(
        key=AssetKey("images/late.png"),
        team_id=me.team_id,
        user_id=me.user_id,
        content_type="image/png",
        size_bytes=len(IMAGE),
        created_at=NOW,
    )
    run(alone.records, assets.reserve(reserved))
    stored = reserved.model_copy(update={"stored": True})
    twins = run(alone.records, assets.confirm(reserved, stored))
    assert twins is not None
    assert twins.there
    alone.client.delete(f"/api/assets/{reserved.key}").raise_for_status()
    late = run(alone.records, assets.confirm(reserved, stored))
    assert late is not None
    assert late.deleted_at
    assert alone.client.get(f"/{reserved.key}").status_code == 404


def test_retries_that_overtake_each_other_leave_one_source(alone: Alone) -> None:
    def vary(_: int) -> httpx.Response:
        return alone.client.post(PATH, files={"image": IMAGE}, headers={"x-stainless-retry-count": "1"})

    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(vary, range(16))} == {503}
    assert alone.queued() == 1
    assert len(list(alone.records.scan_iter("asset:*"))) == 1


def test_a_retry_of_a_refused_call_is_a_call_of_its_own_once_the_earlier_has_ended(alone: Alone) -> None:
    def vary(retry: str) -> httpx.Response:
        return alone.client.post(PATH, files={"image": IMAGE}, headers={"x-stainless-retry-count": retry})

    vary("0")
    end_as_a_worker(alone, 0)
    (key,) = (str(name) for name in alone.records.keys("job:*"))
    assert vary("1").headers["x-job-id"] == key.removeprefix("job:")
    long_ago = partial(JobRecord.model_copy, update={"finished_at": datetime.now(UTC) - timedelta(minutes=2)})
    run(alone.records, STORE.update(JobId(key.removeprefix("job:")), long_ago))
    assert vary("1").status_code == 503
    assert alone.queued() == 1


@pytest.mark.parametrize("alone", [{"REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "5"}], indirect=True)
def test_a_key_that_asks_too_often_is_told_when_to_come_back(alone: Alone) -> None:
    answers = [alone.client.get("/api/results/x") for _ in range(6)] + [alone.client.get("/v1/models")]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    for answer in answers[5:]:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answers[5].json()["errorCode"] == "RATE_LIMIT_EXCEEDED"
    assert answers[6].json()["error"]["code"] == "rate_limit_exceeded"
    other = run(alone.records, create_key("lab", "Ada"))
    assert alone.client.get("/api/results/x", headers={"API-KEY": other}).status_code == 200


@pytest.mark.parametrize("alone", [{"REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "4"}], indirect=True)
def test_a_key_that_was_right_once_is_checked_and_counted_with_every_job(alone: Alone) -> None:
    image = upload(alone)
    assert submit(alone, image).status_code == 200
    assert [submit(alone, name).status_code for name in ("", "images/none.png", "", image)] == [400, 400, 429, 429]
    run(alone.records, revoke_key(alone.key.split("_")[1]))
    assert [submit(alone, name).status_code for name in ("", "images/none.png", image)] == [401] * 3
    assert alone.queued() == 1


@pytest.mark.parametrize("alone", [{"REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "3"}], indirect=True)
def test_who_names_an_image_elsewhere_is_counted_once_and_before_it_would_be_fetched(alone: Alone) -> None:
    assert alone.client.get("/api/results/x").status_code == 200
    answers = [submit(alone, "https://images.example/cat.png") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]


@pytest.mark.parametrize("alone", [{"REDUXQ_TEAMS__OPEN_JOBS": "2"}], indirect=True)
def test_a_team_with_too_many_open_jobs_is_told_when_to_come_back(alone: Alone) -> None:
    image = upload(alone)
    first, second, third = (submit(alone, image) for _ in range(3))
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert "2 jobs that wait or run" in third.json()["message"]
    alone.client.delete(f"/api/results/{first.json()['aiRecord']['uuid']}").raise_for_status()
    assert submit(alone, image).status_code == 200


@pytest.mark.parametrize("alone", [{"REDUXQ_API__ALLOW_UNCHECKED": "false"}], indirect=True)
def test_an_operator_can_forbid_to_disable_the_safety_checker(alone: Alone) -> None:
    answer = alone.client.post(PATH, files={"image": IMAGE}, data={"disable_safety_checker": "true"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "disable_safety_checker"
    assert not alone.records.keys("asset:*")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A TLS server's URL; an API that starts later trusts its certificate."""
    authority, certificate = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with ExitStack() as stack:
        answers = Pictures(authority, Names(), stack).handler(reply(IMAGE), "localhost")
        yield f"https://localhost:{stack.enter_context(listening(answers))}"


MAY_FETCH = {"REDUXQ_EGRESS__IMAGE_URLS": "true"}
FROM_HERE = MAY_FETCH | {"REDUXQ_EGRESS__ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]'}


@pytest.mark.parametrize("alone", [FROM_HERE], indirect=True)
def test_an_image_elsewhere_is_fetched_once_and_becomes_an_asset(elsewhere: str, alone: Alone) -> None:
    answer = submit(alone, f"{elsewhere}/a/cat.png?size=large")
    assert answer.status_code == 200, answer.text
    (asset,) = alone.records.keys("asset:*")
    assert str(asset).endswith("_cat.png")
    fetched = alone.client.get(f"/{str(asset).removeprefix('asset:')}", follow_redirects=True)
    assert fetched.content == IMAGE


@pytest.mark.parametrize("alone", [FROM_HERE], indirect=True)
def test_the_web_applications_clients_upload_by_url_too(elsewhere: str, alone: Alone) -> None:
    team = alone.client.get("/users").json()["user"]["teams"][0]["team"]["uuid"]
    answer = alone.client.post(f"/teams/{team}/assets", json={"fileUrl": f"{elsewhere}/cat.png", "type": "IMAGE"})
    assert answer.json()["asset"]["mimetype"] == "image/png"


@pytest.mark.parametrize("alone", [MAY_FETCH], indirect=True)
@pytest.mark.parametrize(
    "url", ["https://localhost/cat.png", "https://169.254.169.254/latest/meta-data", "http://example.com/cat.png"]
)
def test_an_address_inside_is_refused_and_leaves_nothing(alone: Alone, url: str) -> None:
    answer = submit(alone, url)
    assert answer.status_code == 400
    (detail,) = answer.json()["error"]["details"]
    assert (detail["field"], detail["value"]) == ("promptObject.imageUrl", url)
    assert not alone.records.keys("asset:*")


def test_a_poller_that_knows_three_words_understands_a_canceled_job(alone: Alone) -> None:
    """As the n8n node: PROCESSING goes on, SUCCESS and FAILURE end, null is unknown."""
    uuid = submit(alone, upload(alone)).json()["aiRecord"]["uuid"]
    assert alone.client.get(f"/api/results/{uuid}").json()["aiRecord"]["status"] == "PROCESSING"
    assert alone.client.get("/api/results/unknown").json() == {"aiRecord": None}
    alone.client.delete(f"/api/results/{uuid}").raise_for_status()
    ended: Any = alone.client.get(f"/api/results/{uuid}").json()["aiRecord"]
    assert ended["status"] == "FAILURE"
    assert set(ended["aiRecordDetail"]["resultObject"]) == {"code", "name", "message"}


def test_an_upload_that_is_repeated_is_answered_from_the_record_and_not_stored_again(alone: Alone) -> None:
    send = partial(alone.client.post, "/api/assets", files={"asset": IMAGE}, headers={"Idempotency-Key": "k"})
    first = send().json()["asset"]
    alone.objects.delete(first["key"])  # so that a second put would be seen
    assert send().json()["asset"] == first
    with pytest.raises(NotFound):
        alone.objects.get(first["key"])
    assert alone.records.exists(f"asset:{first['key']}")


def end_as_a_worker(alone: Alone, flagged: int) -> None:
    """Take the one queued job and end it with so many of its variations flagged."""
    wait_until(alone.queued)
    (job_id,) = run(alone.records, queues.queued_jobs())
    job = run(alone.records, STORE.update(job_id, start))
    withheld = tuple(Flagged(seed=seed, score=0.9) for seed in job.parameters.seeds[:flagged])
    made = variations_of(job)[flagged:]
    for variation in made:
        alone.objects.put(variation.key, IMAGE, "image/png")
    now = datetime.now(UTC)
    done = partial(finish, attempt=1, variations=made, flagged=withheld, model=MODEL, timings={}, now=now)
    run(alone.records, STORE.update(job_id, done))


@pytest.mark.parametrize("alone", [{"REDUXQ_API__OPENAI_WAIT_SECONDS": "20"}], indirect=True)
@pytest.mark.parametrize(("flagged", "status"), [(1, 200), (2, 400)])
def test_flagged_variations_are_withheld_listed_and_not_paid(alone: Alone, flagged: int, status: int) -> None:
    before = alone.client.get("/users").json()["user"]["teams"][0]["team"]["credit"]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(alone.client.post, PATH, files={"image": IMAGE}, data={"n": "2"})
        end_as_a_worker(alone, flagged)
        answer = sent.result()
    assert answer.status_code == status
    if status == 200:
        assert [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]] == [IMAGE]
    else:
        assert answer.json()["error"]["code"] == "content_policy_violation"
    (key,) = (str(name) for name in alone.records.keys("job:*"))
    record: Any = alone.client.get(f"/api/results/{key.removeprefix('job:')}").json()["aiRecord"]
    assert record["status"] == ("SUCCESS" if status == 200 else "FAILURE")
    assert [found["score"] for found in record["additionalData"]["flagged"]] == [0.9] * flagged
    price = record["additionalData"]["price"]
    assert price["charged"] == price["credits"] * (2 - flagged) / 2
    assert before - alone.client.get("/users").json()["user"]["teams"][0]["team"]["credit"] == price["charged"]
