"""Batches over HTTP: API, dispatcher and a worker that takes no time, on servers of their own."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import trustme

from shared.connections import run
from shared.keys import create_key
from tests.hostile import scan_bomb
from tests.mill import Mill, batch_of, results
from tests.servers import wait_until
from tests.tls_servers import Names, Pictures, listening, reply

FEW = {"REDUXQ_API__MAX_BATCH_LINES": "100", "REDUXQ_API__MAX_BATCH_BYTES": "400000", "REDUXQ_JOBS__LEASE_SECONDS": "2"}

FROM_HERE = {"REDUXQ_EGRESS__IMAGE_URLS": "true", "REDUXQ_EGRESS__ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]'}


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    with ExitStack() as living:
        mill = Mill(tmp_path_factory.mktemp("mill"), living, FEW)
        mill.worker("one", pace=0)
        yield mill


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Mill]:
    """A mill without a worker."""
    with ExitStack() as living:
        yield Mill(tmp_path, living)


def other_team(mill: Mill) -> httpx.Client:
    key = run(mill.records, create_key(str(uuid4()), "Bob"))
    return httpx.Client(base_url=mill.client.base_url, headers={"API-KEY": key})


def set_credit(mill: Mill, credit: int) -> None:
    mill.records.hset(f"team:{mill.records.hget('team_ids', 'lab')}", "credit", str(credit))


def test_a_batch_ends_with_what_came_of_each_line_and_a_manifest_of_links(mill: Mill) -> None:
    before = mill.client.get("/users").json()["user"]["teams"][0]["team"]["credit"]
    lines: list[dict[str, Any] | bytes] = [
        {"customId": "plain"},
        b"",
        {"customId": "two", "n": 2, "seed": 70, "format": "png"},
        b"{no json",
        {"customId": "many", "num_outputs": 9},
        {"customId": "elsewhere", "imageUrl": "images/unknown.png"},
        b"[1]",
        {"customId": 5},
    ]
    sent = mill.send(*lines, metadata={"shoot": 7}, defaults={"num_outputs": 1})
    assert (sent["status"], sent["priority"], sent["metadata"]) == ("PROCESSING", "low", {"shoot": 7})
    assert (sent["finishedAt"], sent["resultsUrl"]) == (None, None)
    done = mill.ended(sent["uuid"])
    counts = {"total": 7, "waiting": 0, "processing": 0, "succeeded": 2, "failed": 5, "canceled": 0}
    assert (done["status"], done["counts"]) == ("SUCCESS", counts)

    found = results(done)
    assert [(line["line"], line["customId"], line["status"]) for line in found] == [
        (2, "plain", "SUCCESS"),
        (4, "two", "SUCCESS"),
        (5, None, "FAILURE"),
        (6, "many", "FAILURE"),
        (7, "elsewhere", "FAILURE"),
        (8, None, "FAILURE"),
        (9, None, "FAILURE"),
    ]
    assert [line["error"]["message"].partition(":")[0] for line in found[2:]] == [
        "line 5",
        "num_outputs",
        "promptObject.imageUrl",
        "body",
        "customId",
    ]
    assert found[1]["seeds"] == [70, 71]
    for line in found[:2]:
        record = mill.client.get(f"/api/results/{line['recordId']}").json()["aiRecord"]
        assert record["aiRecordDetail"]["resultObject"] == line["keys"]
        assert record["additionalData"]["priority"] == "low"
        assert [httpx.get(url).status_code for url in line["urls"]] == [200] * len(line["keys"])
    assert [
        {name: line[name] for name in item} for item, line in zip(mill.items(sent["uuid"]), found, strict=True)
    ] == [*mill.items(sent["uuid"])]
    left = mill.client.get("/users").json()["user"]["teams"][0]["team"]["credit"]
    assert before - left == done["price"]["charged"] > 0


def test_nothing_is_kept_of_what_is_not_known_or_cannot_be(mill: Mill) -> None:
    junk = {"junk": "x" * 5000, "n": 1, "numImages": "y" * 5000}
    missing = {"customId": "missing", "imageUrl": "images/" + "z" * 4000}
    before = mill.records.hget("batches:bytes", str(mill.records.hget("team_ids", "lab"))) or 0
    sent = mill.send({"customId": "fine", **junk}, {"num_outputs": 9, **junk}, missing)
    places = ("lines", "outcomes")
    lines, outcomes = (mill.records.hgetall(f"batch:{sent['uuid']}:{place}") for place in places)
    assert max(map(len, [*lines.values(), *outcomes.values()])) < 500
    assert json.loads(lines["2"])["custom_id"] == "fine"
    assert (json.loads(lines["3"]), json.loads(lines["4"])) == ({}, {"custom_id": "missing"})
    taken = int(str(mill.records.hget("batches:bytes", str(mill.records.hget("team_ids", "lab"))))) - int(before)
    assert 1500 < taken < 4000
    assert mill.ended(sent["uuid"])["counts"]["succeeded"] == 1


def test_a_batch_that_has_ended_can_be_deleted_with_its_manifest_and_its_results_stay(mill: Mill) -> None:
    mill.records.set("dispatcher:leader", "nobody", px=2000)
    sent = mill.send({})
    refused = mill.client.delete(f"/api/batches/{sent['uuid']}")
    assert (refused.status_code, refused.json()["error"]["details"][0]["field"]) == (400, "uuid")
    done = mill.ended(sent["uuid"])
    (item,) = results(done)
    with other_team(mill) as stranger:
        assert stranger.delete(f"/api/batches/{sent['uuid']}").status_code == 404
    assert mill.client.delete(f"/api/batches/{sent['uuid']}").json() == {"batch": None}
    assert mill.client.get(f"/api/batches/{sent['uuid']}").json() == {"batch": None}
    assert httpx.get(done["resultsUrl"]).status_code == 404
    assert list(mill.records.scan_iter(f"batch:{sent['uuid']}*")) == []
    assert mill.client.get(f"/api/results/{item['recordId']}").json()["aiRecord"]["status"] == "SUCCESS"


def test_the_same_idempotency_key_gives_the_same_batch_and_leaves_nothing_else(mill: Mill) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    body = mill.manifest({}, {})
    first = batch_of(mill.client.post("/api/batches", content=body, headers=headers))
    before = set(mill.records.scan_iter("batch:*"))
    assert batch_of(mill.client.post("/api/batches", content=body, headers=headers))["uuid"] == first["uuid"]
    assert {key.split(":")[1] for key in mill.records.scan_iter("batch:*")} == {key.split(":")[1] for key in before}
    other = mill.client.post("/api/batches", content=mill.manifest({}), headers=headers)
    assert (other.status_code, other.json()["errorCode"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert mill.ended(first["uuid"])["counts"]["succeeded"] == 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "must have at least one item"),
        (b"\n \n", 400, "must have at least one item"),
        (b'{"defaults": {}}\n', 400, "must have at least one item"),
        (b'{"defaults": 5}\n{}', 400, "defaults"),
        (b'{"defaults": {"num_outputs": 9}}\n{}', 400, "num_outputs: must be a whole number from 1 to 4, not 9"),
        (b'{"defaults": {}, "prority": "low"}\n{}', 400, "prority"),
        (b'{"defaults": {}, "priority": "high"}\n{}', 400, "'low' or 'normal'"),
        (b'{"defaults": {}, "webhook": "http://example.com"}\n{}', 400, "webhook"),
        (b'{"defaults": {,}}\n{}', 400, "line 1: is not JSON"),
        (b'{}\n{"customId": "\xff"}', 400, "not UTF-8 in line 2"),
        (b"{}\n" * 101, 400, "more than the 100 items"),
        (b"x" * 70_000, 413, "line 1 is longer than the 65536 bytes"),
        (b"{}" + b" " * 4000 + b"\n" * 400_000, 413, "400000 bytes"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_whole(mill: Mill, body: bytes, status: int, message: str) -> None:
    before = set(mill.records.scan_iter("batch:*"))
    answer = mill.client.post("/api/batches", content=body)
    assert answer.status_code == status
    assert message in answer.json()["message"]
    assert set(mill.records.scan_iter("batch:*")) <= before


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b" \r\n\n"])
def test_editors_may_put_something_before_the_header(mill: Mill, before: bytes) -> None:
    content = before + mill.manifest({}, metadata={"shoot": 8})
    sent = batch_of(mill.client.post("/api/batches", content=content))
    assert (sent["metadata"], sent["counts"]["total"]) == ({"shoot": 8}, 1)
    assert mill.ended(sent["uuid"])["counts"]["succeeded"] == 1


def test_a_line_may_have_any_name_of_a_parameter_and_beats_the_defaults(mill: Mill) -> None:
    sent = mill.send({"n": 2}, {"num_outputs": None}, {"image_url": mill.source}, defaults={"num_outputs": 3})
    assert [len(line["keys"]) for line in results(mill.ended(sent["uuid"]))] == [2, 3, 3]


def test_an_item_may_be_an_image_elsewhere_only_if_the_operator_allows_it(mill: Mill) -> None:
    sent = mill.send({"imageUrl": "https://example.com/cat.png"})
    (item,) = results(mill.ended(sent["uuid"]))
    assert (item["status"], item["error"]["code"]) == ("FAILURE", "VALIDATION_ERROR")
    assert "not allowed here" in item["error"]["message"]


def test_an_item_whose_image_kills_its_decoder_fails_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    def kill_the_decoder() -> bool:
        """As the system does when memory is short; say whether it was at work."""
        for each in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "anyio.to_process" in each.cmdline() and each.cpu_times().user > 2:
                    each.kill()
                    return True
        return False

    with ExitStack() as living:
        answers = Pictures(authority, Names(), living).handler(reply(scan_bomb(7900, 5000)), "localhost")
        url = f"https://localhost:{living.enter_context(listening(answers))}/bomb.jpg"
        mill = Mill(tmp_path, living, FEW | FROM_HERE)
        mill.worker("one", pace=0)
        sent = mill.send({"imageUrl": url}, {})
        wait_until(kill_the_decoder, 60)
        killed, whole = results(mill.ended(sent["uuid"]))
    assert (killed["status"], killed["error"]["code"], whole["status"]) == ("FAILURE", "INVALID_IMAGE", "SUCCESS")
    assert "the decoder crashed" in killed["error"]["message"]


def test_a_batch_is_its_teams_own(mill: Mill) -> None:
    uuid = mill.send({})["uuid"]
    with other_team(mill) as stranger:
        assert stranger.get(f"/api/batches/{uuid}").json() == {"batch": None}
        assert stranger.get("/api/batches").json() == {"batches": [], "nextCursor": None}
        for method, what in (("GET", "items"), ("POST", "cancel"), ("POST", "retry")):
            assert stranger.request(method, f"/api/batches/{uuid}/{what}").status_code == 404
        sent = stranger.post("/api/batches", content=mill.manifest({}))  # names an image of ours
        (item,) = stranger.get(f"/api/batches/{sent.json()['batch']['uuid']}/items").json()["items"]
        assert item["error"]["code"] == "VALIDATION_ERROR"
    mill.ended(uuid)


def test_lists_lead_from_page_to_page(mill: Mill) -> None:
    sent = [mill.send({}, {}, b"?")["uuid"] for _ in range(3)][::-1]
    first = mill.client.get("/api/batches?limit=2").json()
    second = mill.client.get("/api/batches", params={"limit": 1, "cursor": first["nextCursor"]}).json()
    assert [batch["uuid"] for batch in (*first["batches"], *second["batches"])] == sent
    for uuid in sent:
        mill.ended(uuid)
    assert [item["line"] for item in mill.items(sent[0], limit=1)] == [2, 3, 4]
    assert [item["line"] for item in mill.items(sent[0], status="SUCCESS", limit=1)] == [2, 3]
    assert [item["line"] for item in mill.items(sent[0], status="FAILURE")] == [4]
    assert list(mill.items(sent[0], status="WAITING")) == []
    assert mill.client.get(f"/api/batches/{sent[0]}/items?cursor=x").status_code == HTTPStatus.BAD_REQUEST


def test_a_batch_must_be_covered_and_an_item_that_no_longer_is_fails_until_it_is_tried_again(idle: Mill) -> None:
    price = idle.client.get("/models").json()["models"][0]  # a job's price is at least one credit
    assert price
    set_credit(idle, 0)
    refused = idle.client.post("/api/batches", content=idle.manifest({}))
    assert (refused.status_code, refused.json()["errorCode"]) == (406, "INSUFFICIENT_CREDITS")
    set_credit(idle, 1_000_000)
    # The first of two may be paid, and the credit is gone before the second's turn.
    idle.records.set("dispatcher:leader", "nobody", px=2000)
    sent = idle.send({}, {})
    set_credit(idle, 0)
    done = idle.ended(sent["uuid"])
    assert done["counts"]["failed"] == 2
    assert {item["error"]["code"] for item in idle.items(sent["uuid"])} == {"INSUFFICIENT_CREDITS"}
    set_credit(idle, 1_000_000)
    again = batch_of(idle.client.post(f"/api/batches/{sent['uuid']}/retry"))
    assert (again["status"], again["finishedAt"], again["resultsUrl"]) == ("PROCESSING", None, None)
    idle.worker("one", pace=0)
    assert idle.ended(sent["uuid"])["counts"]["succeeded"] == 2


def test_a_canceled_batch_ends_and_may_be_tried_again(idle: Mill) -> None:
    sent = idle.send(*({"customId": f"{number}"} for number in range(40)))
    uuid = sent["uuid"]
    wait_until(lambda: idle.records.zcard(f"batch:{uuid}:queued"))
    assert idle.read(uuid)["counts"]["waiting"] == 40
    assert int(str(idle.records.zcard(f"batch:{uuid}:queued"))) < 40
    for _ in range(2):
        assert batch_of(idle.client.post(f"/api/batches/{uuid}/cancel"))["uuid"] == uuid
    done = idle.ended(uuid)
    assert (done["status"], done["counts"]["canceled"], done["price"]["charged"]) == ("CANCELED", 40, 0)
    assert {line["error"]["code"] for line in results(done)} == {"CANCELED"}
    assert batch_of(idle.client.post(f"/api/batches/{uuid}/cancel")) == done | {
        "resultsUrl": idle.read(uuid)["resultsUrl"]
    }
    assert batch_of(idle.client.post(f"/api/batches/{uuid}/retry"))["counts"]["waiting"] == 40
    idle.worker("one", pace=0)
    done = idle.ended(uuid)
    assert (done["status"], done["counts"]["succeeded"]) == ("SUCCESS", 40)
    assert [line["customId"] for line in results(done)] == [str(number) for number in range(40)]
    unchanged = batch_of(idle.client.post(f"/api/batches/{uuid}/retry"))
    assert (unchanged["status"], unchanged["updatedAt"]) == (done["status"], done["updatedAt"])


def test_a_canceled_batch_ends_though_a_record_cannot_be_read(idle: Mill) -> None:
    sent = idle.send({}, {})
    wait_until(lambda: idle.records.zcard(f"batch:{sent['uuid']}:queued") == 2)
    lost = next(idle.items(sent["uuid"]))["recordId"]
    idle.records.hset(f"job:{lost}", "record", "{}")
    idle.client.post(f"/api/batches/{sent['uuid']}/cancel")
    done = idle.ended(sent["uuid"])
    assert (done["status"], done["counts"]["canceled"], done["counts"]["failed"]) == ("CANCELED", 1, 1)
    assert [line["error"]["code"] for line in results(done)] == ["UNREADABLE_RECORD", "CANCELED"]


def test_a_batch_waits_while_its_team_has_no_room(tmp_path: Path) -> None:
    with ExitStack() as living:
        idle = Mill(tmp_path, living, {"REDUXQ_TEAMS__OPEN_JOBS": "4"})
        other = idle.send({}, {})
        wait_until(lambda: idle.records.zcard(f"batch:{other['uuid']}:queued") == 2)
        sent = idle.send({}, {}, {})
        assert idle.records.zcard(f"batch:{sent['uuid']}:queued") == 0
        idle.worker("one", pace=0)
        assert idle.ended(sent["uuid"])["counts"]["succeeded"] == 3


@pytest.mark.parametrize("query", ["wait=61", "wait=soon"])
def test_a_wrong_wait_is_named(mill: Mill, query: str) -> None:
    answer: Any = mill.client.get(f"/api/batches/x?{query}")
    assert (answer.status_code, answer.json()["error"]["details"][0]["field"]) == (400, "wait")
