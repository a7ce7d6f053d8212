"""Who may see what: every route, with every kind of key."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from shared.connections import run
from shared.keys import _with_checksum, create_key, revoke_key
from tests.samples import encoded, picture
from tests.stack import Stack, feature, upload

PUBLIC = {("GET", "/models"), ("GET", "/healthz"), ("GET", "/readyz")}
IMAGE = encoded(picture(), "PNG")
ITEM = b'{"imageUrl": "images/none.png"}'


@dataclass(frozen=True)
class Things:
    """What a request names."""

    uuid: str
    asset: str
    variation: str
    team: str
    batch: str


NOTHING = Things(
    uuid="065487c6-0aa4-4f1a-a42f-fce931fcca8b",
    asset="images/2026_01_01_00_00_00_000_none.png",
    variation="images/2026_01_01_00_00_00_000_000000.webp",
    team="a4e176b2-dabb-451e-9c58-62b451fa9630",
    batch="f3b0f1a2-5f0b-4f6e-9d3f-0d8f3c1e7a55",
)
Ask = Callable[[httpx.Client, Things], httpx.Response]


def submission(image: str) -> dict[str, Any]:
    prompt = {"imageUrl": image, "megapixels": "0.25", "num_inference_steps": 1}
    return {"type": "IMAGE_VARIATOR", "model": "black-forest-labs/flux-redux-dev", "promptObject": prompt}


def own_team(client: httpx.Client) -> str:
    return str(client.get("/users").json()["user"]["teams"][0]["team"]["uuid"])


#: Every route that needs a key; those whose path or body names a thing name it.
ROUTES: dict[tuple[str, str], list[Ask]] = {
    ("POST", "/api/assets"): [lambda client, _: client.post("/api/assets", files={"asset": IMAGE})],
    ("GET", "/api/assets/{key}"): [
        lambda client, things: client.get(f"/api/assets/{things.asset}"),
        lambda client, things: client.get(f"/api/assets/{things.variation}"),
    ],
    ("DELETE", "/api/assets/{key}"): [
        lambda client, things: client.delete(f"/api/assets/{things.asset}"),
        lambda client, things: client.delete(f"/api/assets/{things.variation}"),
    ],
    ("POST", "/api/features"): [
        lambda client, things: client.post("/api/features", json=submission(things.asset)),
        lambda client, things: client.post("/api/features", json=submission(things.variation)),
    ],
    ("GET", "/api/results/{uuid}"): [lambda client, things: client.get(f"/api/results/{things.uuid}")],
    ("GET", "/api/results"): [lambda client, _: client.get("/api/results")],
    ("POST", "/api/results/{uuid}/cancel"): [lambda client, things: client.post(f"/api/results/{things.uuid}/cancel")],
    ("GET", "/api/results/{uuid}/events"): [lambda client, things: client.get(f"/api/results/{things.uuid}/events")],
    ("DELETE", "/api/results/{uuid}"): [lambda client, things: client.delete(f"/api/results/{things.uuid}")],
    ("POST", "/api/batches"): [
        lambda client, _: client.post("/api/batches", content=b'{"imageUrl": "images/none.png"}')
    ],
    ("GET", "/api/batches"): [lambda client, _: client.get("/api/batches")],
    ("GET", "/api/batches/{uuid}"): [lambda client, things: client.get(f"/api/batches/{things.batch}")],
    ("DELETE", "/api/batches/{uuid}"): [lambda client, things: client.delete(f"/api/batches/{things.batch}")],
    ("GET", "/api/batches/{uuid}/items"): [lambda client, things: client.get(f"/api/batches/{things.batch}/items")],
    ("POST", "/api/batches/{uuid}/cancel"): [lambda client, things: client.post(f"/api/batches/{things.batch}/cancel")],
    ("POST", "/api/batches/{uuid}/retry"): [lambda client, things: client.post(f"/api/batches/{things.batch}/retry")],
    ("GET", "/images/{name}"): [
        lambda client, things: client.get(f"/{things.asset}"),
        lambda client, things: client.get(f"/{things.variation}"),
    ],
    ("GET", "/users"): [lambda client, _: client.get("/users")],
    ("GET", "/teams/{team}/credits"): [lambda client, things: client.get(f"/teams/{things.team}/credits")],
    ("POST", "/teams/{team}/assets"): [
        lambda client, things: client.post(f"/teams/{things.team}/assets", files={"asset": IMAGE})
    ],
    ("POST", "/teams/{team}/features"): [
        lambda client, things: client.post(f"/teams/{things.team}/features", json=submission(things.asset)),
        lambda client, things: client.post(f"/teams/{own_team(client)}/features", json=submission(things.asset)),
    ],
    **{
        ("POST", f"{prefix}/images/variations"): [
            lambda client, _, prefix=prefix: client.post(f"{prefix}/images/variations", files={"image": IMAGE})  # type: ignore[misc]
        ]
        for prefix in ("/v1/openai", "/v1", "/api/v1")
    },
    **{
        ("GET", f"{prefix}/models"): [lambda client, _, prefix=prefix: client.get(f"{prefix}/models")]  # type: ignore[misc]
        for prefix in ("/v1/openai", "/v1", "/api/v1")
    },
}
NAMING = [route for route in ROUTES if "{" in route[1] or route == ("POST", "/api/features")]


@pytest.fixture(scope="module")
def things(client: httpx.Client) -> Things:
    """What team B has."""
    asset = upload(client, IMAGE)["key"]
    record = feature(client, asset, wait=True)
    variation = record["aiRecordDetail"]["resultObject"][0]
    batch = client.post("/api/batches", content=ITEM).json()["batch"]
    return Things(record["uuid"], asset, variation, own_team(client), batch["uuid"])


def test_the_matrix_knows_every_route(stack: Stack) -> None:
    document = httpx.get(f"{stack.told['api_url']}/openapi.json").json()
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert routes == set(ROUTES) | PUBLIC


@pytest.mark.parametrize("route", NAMING, ids=" ".join)
def test_another_teams_things_are_as_if_they_did_not_exist(
    stack: Stack, things: Things, route: tuple[str, str]
) -> None:
    with stack.client(stack.new_key("team-a")) as stranger:
        for ask in ROUTES[route]:
            theirs, nothing = ask(stranger, things), ask(stranger, NOTHING)
            assert theirs.status_code == nothing.status_code
            assert named(theirs.text, things) == named(nothing.text, NOTHING)
            assert theirs.status_code in {400, 404} or theirs.json() in ({"aiRecord": None}, {"batch": None})


def test_a_list_has_the_own_teams_jobs_alone(stack: Stack, client: httpx.Client, things: Things) -> None:
    assert things.uuid in client.get("/api/results").text
    with stack.client(stack.new_key("team-a")) as stranger:
        assert stranger.get("/api/results").json() == {"aiRecords": [], "nextCursor": None}


def test_the_owner_still_has_everything(client: httpx.Client, things: Things) -> None:
    assert client.get(f"/api/results/{things.uuid}").json()["aiRecord"]["status"] == "SUCCESS"
    assert client.get(f"/{things.asset}", follow_redirects=True).content == IMAGE
    assert client.get(f"/{things.variation}", follow_redirects=True).status_code == 200


def named(text: str, things: Things) -> str:
    """A body with the things' names taken out."""
    for name in (things.uuid, things.asset, things.variation, things.team, things.batch):
        text = text.replace(name, "...")
    return text


@pytest.mark.parametrize("kind", ["none", "malformed", "unknown", "revoked", "expired"])
def test_without_a_good_key_every_route_is_closed(stack: Stack, things: Things, kind: str) -> None:
    with stack.records() as records:
        lasts = timedelta(microseconds=1) if kind == "expired" else None
        spent = run(records, create_key("team-b", "Eve", lasts=lasts))
        if kind == "revoked":
            run(records, revoke_key(spent.split("_")[1]))
    keys = {"none": "", "malformed": "Bearer of bad news", "unknown": _with_checksum(f"rq_{'a' * 12}_{'b' * 32}")}
    headers = {"API-KEY": keys.get(kind, spent)} if kind != "none" else {}
    with httpx.Client(base_url=stack.told["api_url"], headers=headers) as client:
        told = set()
        for (method, path), asks in ROUTES.items():
            answer = asks[0](client, things)
            assert answer.status_code == 401, (method, path)
            told.add(answer.json()["error"]["message"])
        assert len(told) == 1
