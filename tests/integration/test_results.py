"""Waiting for, listing and canceling jobs: an API whose jobs the test itself takes from step to step."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from shared.errors import ModelFailed
from shared.ids import JobId
from shared.transitions import fail
from tests.driven import Driven
from tests.samples import NOW


def record_of(answer: httpx.Response) -> dict[str, Any]:
    record: dict[str, Any] = answer.raise_for_status().json()["aiRecord"]
    return record


def outcome_of(record: dict[str, Any]) -> tuple[str, str]:
    return record["status"], record["aiRecordDetail"]["resultObject"]["code"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_waiting_read_is_answered_when_the_job_ends(driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(driven.client.get, f"/api/results/{job}?wait=30")
        time.sleep(0.5)
        assert not waiting.done()
        driven.end(job)
        ended = time.monotonic()
        assert record_of(waiting.result(5))["status"] == "SUCCESS"
    assert time.monotonic() - ended < 1


def test_a_waiting_read_whose_time_runs_out_is_answered_with_the_record_as_it_is(driven: Driven) -> None:
    job = driven.accept()
    started = time.monotonic()
    assert record_of(driven.client.get(f"/api/results/{job}?wait=1"))["status"] == "PROCESSING"
    assert 1 <= time.monotonic() - started < 2


def test_an_unknown_id_and_a_job_that_has_ended_are_not_waited_for(driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    driven.end(job)
    started = time.monotonic()
    assert driven.client.get("/api/results/unknown?wait=30").json() == {"aiRecord": None}
    assert record_of(driven.client.get(f"/api/results/{job}?wait=30"))["status"] == "SUCCESS"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *[("wait", value, "whole number from 0 to 60") for value in ("61", "-1", "1.5", "soon", "")],
        *[("limit", value, "whole number from 1 to 100") for value in ("0", "101", "all")],
        ("status", "running", "'PROCESSING', 'SUCCESS' or 'FAILURE'"),
        *[("cursor", value, "nextCursor") for value in ("x", "ä", "WzFd", "e30=", "WyJhIiwgImIiXQ==")],
        *[("cursor", encoded(text), "nextCursor") for text in ("[5,null]", '{"1":2,"3":4}', '[true,"x"]', "[5,6]")],
        ("cursor", encoded(f'[1{400 * "0"},"x"]'), "nextCursor"),
        ("cursor", encoded(3000 * "["), "nextCursor"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_is_allowed(
    driven: Driven, field: str, value: str, allowed: str
) -> None:
    path = "/api/results/x" if field == "wait" else "/api/results"
    answer = driven.client.get(path, params={field: value})
    assert answer.status_code == 400
    (fault,) = answer.json()["error"]["details"]
    assert (fault["field"], fault["value"]) == (field, value)
    assert allowed in answer.json()["message"]


@pytest.mark.parametrize("running", [False, True])
def test_a_job_is_canceled_once_however_often_that_is_asked(driven: Driven, *, running: bool) -> None:
    job = driven.accept()
    if running:
        driven.begin(job)
    canceled = record_of(driven.client.post(f"/api/results/{job}/cancel"))
    assert outcome_of(canceled) == ("FAILURE", "CANCELED")
    assert canceled["additionalData"]["price"]["charged"] == 0
    assert record_of(driven.client.post(f"/api/results/{job}/cancel")) == canceled
    assert record_of(driven.client.get(f"/api/results/{job}")) == canceled


def test_a_job_that_has_ended_cannot_be_canceled_and_is_answered_as_it_is(driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    driven.end(job)
    assert record_of(driven.client.post(f"/api/results/{job}/cancel"))["status"] == "SUCCESS"


def test_what_cannot_be_canceled_or_watched_is_said_to_be_missing(driven: Driven) -> None:
    for answer in (driven.client.post("/api/results/x/cancel"), driven.client.get("/api/results/x/events")):
        assert answer.status_code == 404
        assert answer.json()["errorCode"] == "NOT_FOUND"


def pages(driven: Driven, **query: Any) -> list[list[str]]:
    """The uuids on every page of a list."""
    found, cursor = [], ""
    while cursor is not None:
        page = driven.client.get("/api/results", params=query | ({"cursor": cursor} if cursor else {})).json()
        found.append([record["uuid"] for record in page["aiRecords"]])
        cursor = page["nextCursor"]
    return found


def test_a_list_leads_from_the_newest_job_to_the_oldest(driven: Driven) -> None:
    jobs = [driven.accept(NOW + timedelta(seconds=n)) for n in range(7)][::-1]
    assert pages(driven, limit=3) == [jobs[:3], jobs[3:6], jobs[6:]]
    assert pages(driven, limit=7) == [jobs]
    assert pages(driven) == [jobs]


def test_a_list_of_one_status_speaks_the_facades_words(driven: Driven) -> None:
    queued, running, done, failed, canceled = (driven.accept(NOW + timedelta(seconds=n)) for n in range(5))
    for job in (running, done, failed):
        driven.begin(job)
    driven.step(running, 3)
    driven.end(done)
    driven.change(failed, partial(fail, attempt=1, error=ModelFailed("broken"), now=NOW))
    driven.client.post(f"/api/results/{canceled}/cancel").raise_for_status()
    assert pages(driven, status="PROCESSING") == [[running, queued]]
    assert pages(driven, status="SUCCESS") == [[done]]
    assert pages(driven, status="FAILURE", limit=1) == [[canceled], [failed]]


def test_a_list_shows_each_record_as_a_read_of_it_does(driven: Driven) -> None:
    jobs: list[JobId] = [driven.accept(num_outputs=2) for _ in range(3)]
    driven.begin(jobs[1])
    driven.step(jobs[1], 3)
    driven.begin(jobs[2])
    driven.end(jobs[2])
    for listed in driven.client.get("/api/results").json()["aiRecords"]:
        single = record_of(driven.client.get(f"/api/results/{listed['uuid']}"))
        for record in (listed, single):  # links are signed anew at each read
            assert len(record["additionalData"].pop("temporaryUrls")) == len(record["aiRecordDetail"]["resultObject"])
            record.pop("temporaryUrl")
        assert listed == single
