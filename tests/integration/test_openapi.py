"""The OpenAPI document: complete, true of the running API, and shown without a request to anybody else."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from threading import Event
from typing import Any, Final, TypeVar
from zlib import crc32

import httpx
import jsonschema_rs
import pytest
import redis
import schemathesis
from fastapi.routing import iter_route_contexts
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api.app import create_app
from shared import batch_store
from shared.connections import connect, run
from shared.errors import IllegalTransition, LeaseLost
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import Flagged, JobRecord, Variation
from shared.keys import create_key
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.transitions import claim, finish
from tests import queues, servers
from tests.samples import MODEL, NOW, encoded, picture, variations_of
from tests.stack import feature, upload
from tests.together import meanwhile

APP: Final = create_app(Settings())
DOCUMENT: Final = APP.openapi()
OPERATIONS: Final = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
PUBLIC: Final = {"/models", "/healthz", "/readyz"}
UNLIMITED: Final = {
    "REDUXQ_API__WAIT_SECONDS": "0.2",
    "REDUXQ_API__OPENAI_WAIT_SECONDS": "0.2",
    "REDUXQ_TEAMS__REQUESTS_PER_MINUTE": "1000000",
    "REDUXQ_TEAMS__OPEN_JOBS": "1000000",
    "REDUXQ_TEAMS__OPEN_BATCHES": "1000000",
}
Test = TypeVar("Test", bound=Callable[..., None])
PNG: Final = encoded(picture(), "PNG")
STORE: Final = JobStore(Settings().jobs.lease_seconds)


#: What must hold of every answer, beside :func:`no_fault_of_the_server`.
CHECKS: Final = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


schemathesis.serializer.alias("application/jsonl", "text/plain")


def made_up(examples: int) -> Callable[[Test], Test]:
    """Return what runs a test for each operation, with so many calls that schemathesis makes up."""
    generation = {"max-examples": examples, "deterministic": True, "with-security-parameters": False}
    config = schemathesis.Config.from_dict({"seed": 1, "generation": generation})
    decorator: Callable[[Test], Test] = schemathesis.openapi.from_dict(DOCUMENT, config=config).parametrize()
    return decorator


def no_fault_of_the_server(_: Any, response: Any, case: schemathesis.Case[Any]) -> None:
    """The one 503 that is no fault says that the job runs on."""
    if response.status_code == 503 and case.path.endswith("/images/variations"):
        assert response.json()["error"]["code"] == "still_running"
        assert response.headers["retry-after"] == ["1"]
    else:
        assert response.status_code < 500


def lead(case: schemathesis.Case[Any], names: dict[str, str]) -> None:
    """Let two of three calls speak of what exists; nearly nothing that is made up does."""
    body: Any = case.body
    kind = crc32(f"{case.path_parameters}{body if isinstance(body, dict) else ''}".encode(errors="replace")) % 3
    if kind == 0:
        return
    own = names | {"uuid": names["batch"]} if "/batches/" in case.path else names
    case.path_parameters = {name: own[name] for name in case.path_parameters}
    if isinstance(body, str):
        case.body = f"{body}\n" + json.dumps({"imageUrl": names["imageUrl"]})
    if isinstance(body, dict):
        case.body = body | {name: PNG for name in ("asset", "image") if name in body}
    if isinstance(body, dict) and isinstance(body.get("promptObject"), dict):
        case.body = body | {"promptObject": body["promptObject"] | {"imageUrl": names["imageUrl"]}}
    if kind == 1:
        case.headers.pop("Idempotency-Key", None)  # one that came before with another body answers for all


def end(records: redis.Redis, objects: ObjectStore, job: JobRecord) -> None:
    """Do as a worker does that needs no time; one of four seeds is flagged, one stays in the queue."""
    if job.parameters.seed % 4 == 0:
        return
    number = int(job.id[:4], 16)
    begin = partial(claim, now=NOW, prefix="", digits=range(number, number + 4))
    running = run(records, STORE.update(job.id, begin))
    made = variations_of(running)
    for variation in made:
        objects.put(variation.key, PNG, "image/png")
    flagged = tuple(Flagged(seed=variation.seed, score=0.9) for variation in made)
    chosen = ((), flagged) if job.parameters.seed % 4 == 1 else (made, ())
    run(records, STORE.update(job.id, partial(ended, attempt=running.attempt, chosen=chosen)))


def ended(job: JobRecord, attempt: int, chosen: tuple[tuple[Variation, ...], tuple[Flagged, ...]]) -> JobRecord:
    variations, flagged = chosen
    timings = {"modelSeconds": 0.1}
    return finish(job, attempt=attempt, variations=variations, flagged=flagged, model=MODEL, timings=timings, now=NOW)


def end_jobs(url: str, objects: ObjectStore, stop: Event) -> None:
    """End the jobs that come, and batches that have none."""
    seen: set[JobId] = set()
    with connect(url) as records:
        while not stop.wait(0.01):
            for batch_id in run(records, batch_store.living()):
                if batch := run(records, batch_store.get(batch_id)):
                    ending = run(records, batch_store.plan_end(batch, AssetKey("batches/x.jsonl"), NOW)) or batch
                    run(records, batch_store.finish(batch_id, ending.version, NOW))
            for job_id in set(run(records, queues.queued_jobs())) - seen:
                seen.add(job_id)
                job = run(records, STORE.get(job_id))
                with suppress(LeaseLost, IllegalTransition):  # its owner deleted it meanwhile
                    if job:
                        end(records, objects, job)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, objects: ObjectStore, s3: str) -> Iterator[httpx.Client]:
    """A client of an API whose jobs end at once."""
    folder = tmp_path_factory.mktemp("openapi")
    with servers.valkey(folder / "valkey") as url, connect(url) as records:
        key = run(records, create_key("lab", "Ada"))
        with (
            meanwhile(lambda stop: end_jobs(url, objects, stop)),
            servers.api(folder, servers.settings_for(url, s3) | UNLIMITED) as api_url,
            httpx.Client(base_url=api_url, headers={"API-KEY": key}) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def names(api: httpx.Client) -> dict[str, str]:
    """What exists, by the names of parameters: two images, one of them to be deleted, a job and a team."""
    image = upload(api, PNG)["key"]
    return {
        "imageUrl": image,
        "name": image.removeprefix("images/"),
        "key": upload(api, PNG)["key"],
        "uuid": feature(api, image, wait=True, seed=2)["uuid"],
        "batch": api.post("/api/batches", content="{}").json()["batch"]["uuid"],
        "team": api.get("/users").json()["user"]["teams"][0]["team"]["uuid"],
    }


def fields(value: Any) -> Any:
    """Return the names of an object's fields, and of those within; timings are as many as a worker takes."""
    if not isinstance(value, dict):
        return None
    return {name: None if name == "timings" else fields(inner) for name, inner in value.items()}


def documented(method: str, path: str) -> Any:
    """Return a copy of the example of an operation's answer."""
    examples = OPERATIONS[method, path]["responses"]["200"]["content"]["application/json"]["examples"]
    return deepcopy(next(iter(examples.values()))["value"])


def sent(path: str, media_type: str = "application/json") -> Any:
    """Return the example of an operation's body."""
    return OPERATIONS["POST", path]["requestBody"]["content"][media_type]["example"]


def test_every_route_stands_in_the_document() -> None:
    routes = {
        (method, route.path_format) for route in iter_route_contexts(APP.routes) for method in route.methods or ()
    }
    pages = {route for route in routes if route[1] in {"/", "/openapi.json", "/docs"}}
    assert routes - pages == set(OPERATIONS)
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_is_documented_with_its_summary_its_examples_and_its_key(method: str, path: str) -> None:
    operation = OPERATIONS[method, path]
    assert operation["summary"]
    assert operation["description"]
    answers = [
        answer for responses in operation["responses"].values() for answer in responses.get("content", {}).values()
    ]
    bodies = operation.get("requestBody", {}).get("content", {}).values()
    for content in (*answers, *bodies):
        examples = [example["value"] for example in content.get("examples", {}).values()] or [content["example"]]
        for example in examples:
            jsonschema_rs.validate(content["schema"] | {"components": DOCUMENT["components"]}, example)
    assert ("401" in operation["responses"]) == (path not in PUBLIC)
    assert (operation.get("security") == []) == (path in PUBLIC)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_asks_for_a_key_as_documented(method: str, path: str, api: httpx.Client) -> None:
    answer = httpx.request(method, api.base_url.join(re.sub("{.*?}", "x", path)))
    assert answer.status_code == (200 if path in PUBLIC else 401)


def test_the_documented_requests_are_answered_with_the_documented_fields(
    api: httpx.Client, names: dict[str, str]
) -> None:
    body = sent("/api/features")
    prompt = body["promptObject"] | {"imageUrl": names["imageUrl"], "seed": 2}
    body = body | {"promptObject": prompt, "webhook": "https://example.com/jobs"}
    expected = documented("POST", "/api/features")
    expected["aiRecord"]["aiRecordDetail"]["promptObject"]["seed"] = 2
    assert fields(api.post("/api/features", json=body).json()) == fields(expected)

    form = {**sent("/v1/images/variations", "multipart/form-data"), "seed": 2}
    del form["image"]
    answer = api.post("/v1/images/variations", data=form, files={"image": PNG})
    assert fields(answer.json()) == fields(documented("POST", "/v1/images/variations"))
    assert answer.headers["x-job-id"]

    answer = api.post("/api/assets", files={"asset": ("cat.png", PNG)})
    assert fields(answer.json()) == fields(documented("POST", "/api/assets"))
    path = "/teams/{team}/credits"
    page = api.get("/api/results?status=SUCCESS&limit=1").json()
    example = documented("GET", "/api/results")
    assert page.keys() == example.keys()
    assert page["aiRecords"][0].keys() == example["aiRecords"][0].keys()
    page = api.get("/api/batches?limit=1").json()
    assert page["batches"][0].keys() == documented("GET", "/api/batches")["batches"][0].keys()
    items = api.get(f"/api/batches/{names['batch']}/items").json()
    assert items["items"][0].keys() == documented("GET", "/api/batches/{uuid}/items")["items"][0].keys()
    for read, shown in (("/users", "/users"), (path.format(team=names["team"]), path), ("/models", "/models")):
        assert fields(api.get(read).json()) == fields(documented("GET", shown))


def test_the_page_loads_nothing_from_elsewhere(api: httpx.Client) -> None:
    page = httpx.get(api.base_url.join("/docs")).raise_for_status()
    loaded = re.findall(r"""(?:src|href)=["'](.*?)["']""", page.text) + re.findall(r"url: '(.*?)'", page.text)
    assert {"openapi.json", "static-offline-docs/swagger-ui-bundle.js"} <= set(loaded)
    for place in loaded:
        assert not place.startswith("/")
        httpx.get(api.base_url.join(place)).raise_for_status()
    assert "http" not in page.text


def ask(case: schemathesis.Case[Any], api: httpx.Client, names: dict[str, str]) -> None:
    """Send what was made up, at something that exists, and check the answer."""
    lead(case, names)
    headers = {"API-KEY": api.headers["API-KEY"]}
    case.call_and_validate(str(api.base_url), headers=headers, checks=[*CHECKS, no_fault_of_the_server])


@made_up(examples=25)
def test_every_answer_is_a_documented_one(
    case: schemathesis.Case[Any], api: httpx.Client, names: dict[str, str]
) -> None:
    ask(case, api, names)


@pytest.mark.slow
@pytest.mark.timeout(600)
@made_up(examples=250)
def test_every_answer_is_a_documented_one_also_in_the_long_run(
    case: schemathesis.Case[Any], api: httpx.Client, names: dict[str, str]
) -> None:
    ask(case, api, names)
