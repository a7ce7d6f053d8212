"""The client against a server that refuses, breaks off and lies."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from reduxq import Client, errors
from tests.samples import encoded, picture
from tests.scripted import Answer, Scripted, ai_record, refusal, scripted
from tests.servers import free_port, wait_until

SOON = {"Retry_After": "0"}


@contextmanager
def served(*answers: Answer, **options: Any) -> Iterator[tuple[Client, Scripted]]:
    with scripted(*answers) as script, Client(script.url, "key", trust_env=False, **options) as client:
        yield client, script


def test_what_may_help_is_asked_again_with_the_same_idempotency_key() -> None:
    answers = Answer(None), refusal(503, **SOON), refusal(429, **SOON), refusal(500, **SOON), Answer(body=ai_record())
    with served(*answers) as (client, script):
        assert client.variations.create("https://example.org/cat.png").uuid == "u"
    assert len({asked.headers["idempotency-key"] for asked in script.asked}) == 1
    assert len({asked.body for asked in script.asked}) == 1
    assert len(script.asked) == 5


def test_two_calls_have_two_idempotency_keys_unless_the_caller_says_otherwise() -> None:
    with served(Answer(body=ai_record())) as (client, script):
        for key in (None, None, "mine"):
            client.variations.create("https://example.org/cat.png", idempotency_key=key)
    first, second, mine = (asked.headers["idempotency-key"] for asked in script.asked)
    assert first != second
    assert mine == "mine"


def test_an_upload_is_sent_whole_again() -> None:
    image = encoded(picture(), "PNG")
    with served(Answer(None), Answer(body={"asset": {"key": "images/x"}})) as (client, script):
        assert client.upload(image, "cat.png") == "images/x"
    assert all(image in asked.body for asked in script.asked)
    assert len(script.asked) == 2


@pytest.mark.parametrize("when", [lambda: "1", lambda: formatdate(time.time() + 3, usegmt=True)])
def test_retry_after_is_honoured(when: Any) -> None:
    with served(refusal(429, Retry_After=when()), Answer(body=ai_record())) as (client, _):
        began = time.monotonic()
        client.jobs.get("u")
        assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("headers", [{"Retry_After": "3600"}, {"x_should_retry": "false"}])
def test_what_will_not_help_soon_is_not_tried_again(headers: dict[str, str]) -> None:
    with served(refusal(503, **headers)) as (client, script), pytest.raises(errors.Unavailable) as refused:
        client.jobs.get("u")
    assert len(script.asked) == 1
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 3600


def test_attempts_are_limited() -> None:
    with served(refusal(503, "SERVICE_UNAVAILABLE", "away", **SOON), attempts=3) as (client, script):
        with pytest.raises(errors.Unavailable, match="away"):
            client.jobs.get("u")
        assert len(script.asked) == 3


def test_a_service_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "key", trust_env=False, attempts=2) as client, pytest.raises(errors.Unavailable, match=r"127\.0"):
        client.jobs.get("u")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "VALIDATION_ERROR", errors.InvalidRequest),
        (400, "UNSUPPORTED_MODEL", errors.UnsupportedModel),
        (400, "INVALID_IMAGE", errors.BrokenImage),
        (401, "HTTP_EXCEPTION", errors.Unauthorized),
        (404, "NOT_FOUND", errors.NotFound),
        (406, "INSUFFICIENT_CREDITS", errors.InsufficientCredits),
        (413, "PAYLOAD_TOO_LARGE", errors.UploadTooLarge),
        (415, "UNSUPPORTED_MEDIA_TYPE", errors.UnsupportedMediaType),
        (422, "IDEMPOTENCY_KEY_REUSED", errors.IdempotencyKeyReused),
        (429, "RATE_LIMIT_EXCEEDED", errors.TooManyRequests),
        (500, "INTERNAL_ERROR", errors.Unavailable),
        (503, "SERVICE_UNAVAILABLE", errors.Unavailable),
    ],
)
def test_a_refusal_is_an_error_with_the_services_words(status: int, code: str, error: type[errors.ReduxqError]) -> None:
    with served(refusal(status, code, "what is wrong", x_request_id="r"), attempts=1) as (client, _):
        with pytest.raises(errors.ReduxqError) as raised:
            client.jobs.get("u")
        told = raised.value
        assert type(told) is error
        assert (told.message, told.code, told.status, told.request_id) == ("what is wrong", code, status, "r")


def test_the_details_of_a_refusal_are_kept() -> None:
    detail = {"field": "seed", "value": -1, "message": "must be a whole number"}
    body = {"errorCode": "VALIDATION_ERROR", "message": "no", "error": {"details": [detail]}}
    with served(Answer(400, body)) as (client, _), pytest.raises(errors.InvalidRequest) as raised:
        client.jobs.get("u")
    assert raised.value.details == (detail,)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"errorCode": 1}', b'{"errorCode": "x", "message": "y", "error": 1}']
)
def test_an_answer_that_is_not_the_services_is_described(body: bytes) -> None:
    with (
        served(Answer(502, body), attempts=1) as (client, _),
        pytest.raises(errors.Unavailable, match="502 Bad Gateway"),
    ):
        client.jobs.get("u")


def test_an_option_that_there_is_not_is_refused() -> None:
    with served() as (client, _), pytest.raises(TypeError, match="num_ouputs: allowed are num_outputs"):
        client.variations.create("https://example.org/cat.png", num_ouputs=4)  # type: ignore[call-arg]


def test_parameters_stand_in_the_prompt_and_the_rest_beside_it() -> None:
    with served(Answer(body=ai_record())) as (client, script):
        client.variations.create("images/2026_01_02_03_04_05_678_cat.png", seed=0, priority="low", webhook="https://x")
    body = json.loads(script.asked[0].body)
    assert body["promptObject"] == {"seed": 0, "imageUrl": "images/2026_01_02_03_04_05_678_cat.png"}
    assert (body["priority"], body["webhook"], body["async"]) == ("low", "https://x", True)


def test_a_wait_that_runs_out_says_so_and_leaves_the_job() -> None:
    with served(Answer(body=ai_record())) as (client, script):
        with pytest.raises(errors.TimedOut, match="it goes on"):
            client.jobs.get("u").wait(timeout=0.2)
        assert all(asked.method == "GET" for asked in script.asked)


def test_a_service_that_does_not_wait_is_not_asked_without_a_pause() -> None:
    with served(Answer(body=ai_record())) as (client, script):
        with pytest.raises(errors.TimedOut):
            client.jobs.get("u").wait(timeout=1.2)
        assert len(script.asked) <= 4


@pytest.mark.parametrize(
    ("code", "error"),
    [("CANCELED", errors.Canceled), ("CONTENT_FLAGGED", errors.ContentFlagged), ("MODEL_FAILED", errors.JobError)],
)
def test_a_job_that_fails_raises_its_reason(code: str, error: type[errors.JobError]) -> None:
    failed = ai_record("FAILURE")
    failed["aiRecord"]["aiRecordDetail"]["resultObject"] = {"code": code, "name": "n", "message": "why"}
    with served(Answer(body=failed)) as (client, _), pytest.raises(errors.JobError, match="why") as raised:
        client.jobs.get("u").wait()
    assert (type(raised.value), raised.value.code) == (error, code)


def sse(*events: tuple[str, str, dict[str, Any]]) -> Answer:
    text = ": hello\n\n" + "".join(f"id: {i}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for i, name, data in events)
    return Answer(200, text.encode(), {"content-type": "text/event-stream"})


def test_a_stream_that_breaks_is_taken_up_where_it_was() -> None:
    running = {"attempt": 1, "step": 3, "steps": 4, "each": [4, 2], "estimatedSeconds": 1.5}
    answers = (
        Answer(body=ai_record()),
        sse(("a", "queued", {"queuePosition": 2, "estimatedSeconds": None})),
        Answer(body=ai_record()),
        Answer(None),
        Answer(body=ai_record()),
        sse(("b", "running", running), ("c", "finished", ai_record("SUCCESS"))),
    )
    with served(*answers) as (client, script):
        job = client.jobs.get("u")
        seen = [(event.name, job.queue_position, job.progress) for event in job.events()]
    assert seen == [("queued", 2, None), ("running", None, (3, 4, [4, 2])), ("finished", 1, None)]
    streams = [asked for asked in script.asked if asked.path.endswith("/events")]
    assert [asked.headers.get("last-event-id") for asked in streams] == [None, "a", "a"]


@pytest.mark.parametrize("status", [429, 503])
def test_where_no_stream_can_be_had_the_end_is_asked_for(status: int) -> None:
    answers = Answer(body=ai_record()), refusal(status), Answer(body=ai_record("SUCCESS"))
    with served(*answers) as (client, _):
        assert [event.name for event in client.jobs.get("u").events()] == ["finished"]


def test_the_key_goes_to_the_service_and_not_where_its_links_lead(tmp_path: Path) -> None:
    with scripted(Answer(403, b""), Answer(200, b"picture")) as storage:
        links = ai_record("SUCCESS", temporaryUrls=[f"{storage.url}/images/a.webp?signed"], seeds=[7])
        with served(Answer(body=links)) as (client, script):
            (path,) = client.jobs.get("u").download(tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / "u-1.webp", b"picture")
    assert [asked.headers.get("api-key") for asked in script.asked] == ["key", "key"]  # the first links had run out
    assert all("api-key" not in asked.headers for asked in storage.asked)
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_written_outside_the_folder_whatever_the_service_says(tmp_path: Path) -> None:
    told = ai_record("SUCCESS", temporaryUrls=["http://127.0.0.1/a.webp"])
    told["aiRecord"]["uuid"] = "../u"
    with served(Answer(body=told)) as (client, _), pytest.raises(errors.ReduxqError, match="leads out of"):
        client.jobs.get("u").download(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_variations_that_were_deleted_are_told_and_not_taken_for_none(tmp_path: Path) -> None:
    told = ai_record("SUCCESS", deletedAt="2026-01-02T03:04:05.678Z")
    with served(Answer(body=told)) as (client, _), pytest.raises(errors.NotFound, match="were deleted at 2026-01-02"):
        client.jobs.get("u").download(tmp_path)


def test_waiting_goes_on_while_the_service_is_away() -> None:
    away = [refusal(503, **SOON)] * 3
    pages = Answer(body=b"<html>be right back</html>"), refusal(429, Retry_After="0")
    with served(Answer(body=ai_record()), *away, *pages, Answer(body=ai_record("SUCCESS")), attempts=1) as (client, _):
        assert client.jobs.get("u").wait().status == "SUCCESS"
    with served(Answer(body=ai_record()), *away, *pages, Answer(body=ai_record("SUCCESS")), attempts=1) as (client, _):
        assert [event.name for event in client.jobs.get("u").events()] == ["finished"]


@pytest.mark.parametrize("answer", [refusal(500), refusal(503, x_should_retry="false"), refusal(404), refusal(401)])
def test_what_no_waiting_mends_ends_the_wait(answer: Answer) -> None:
    with served(Answer(body=ai_record()), answer, attempts=1) as (client, _):
        job = client.jobs.get("u")
        with pytest.raises(errors.ReduxqError):
            job.wait()


def test_a_wait_that_runs_out_while_the_service_is_away_says_so() -> None:
    with served(Answer(body=ai_record()), refusal(503, "SERVICE_UNAVAILABLE", "away"), attempts=1) as (client, _):
        job = client.jobs.get("u")
        with pytest.raises(errors.Unavailable, match="away"):
            job.wait(timeout=0.2)


def test_a_stream_that_is_refused_is_asked_for_again_when_the_service_says() -> None:
    answers = Answer(body=ai_record()), refusal(429, Retry_After="2"), Answer(body=ai_record()), refusal(429)
    with served(*answers, Answer(body=ai_record("SUCCESS"))) as (client, _):
        began = time.monotonic()
        list(client.jobs.get("u").events())
        assert time.monotonic() - began >= 2


def test_a_stream_that_is_none_is_not_asked_for_without_a_pause() -> None:
    page = Answer(body=b"<html>", headers={"content-type": "text/html"})
    with served(
        Answer(body=ai_record()), *[page, Answer(body=ai_record())] * 2, page, Answer(body=ai_record("SUCCESS"))
    ) as (
        client,
        _,
    ):
        began = time.monotonic()
        assert [event.name for event in client.jobs.get("u").events()] == ["finished"]
        assert time.monotonic() - began >= 1.5


def test_a_page_in_the_place_of_an_answer_is_an_error_of_the_tree() -> None:
    with (
        served(Answer(body=b"<html>"), attempts=1) as (client, _),
        pytest.raises(errors.Unavailable, match="answered 200 without the JSON of a reduxq"),
    ):
        client.jobs.get("u")


def test_results_of_a_batch_that_has_not_ended_are_refused() -> None:
    batch: dict[str, Any] = {"uuid": "b", "status": "PROCESSING", "counts": {}, "resultsUrl": None}
    with served(Answer(body={"batch": batch})) as (client, _), pytest.raises(errors.TimedOut, match="has not ended"):
        client.batches.get("b").results()


def test_a_batchs_links_that_have_run_out_are_signed_anew_and_what_is_gone_stops_no_other(tmp_path: Path) -> None:
    with scripted(Answer(403, b"")) as expired, scripted(Answer(200, b"picture")) as storage:
        batch = {"uuid": "b", "status": "SUCCESS", "counts": {}, "resultsUrl": f"{storage.url}/b.jsonl"}
        lines = [
            {"line": line, "status": status, "recordId": "u", "urls": [f"{expired.url}/a.webp"] if line < 3 else []}
            for line, status in enumerate(("SUCCESS", "SUCCESS", "FAILURE"), start=1)
        ]
        storage.answers.insert(0, Answer(200, "\n".join(map(json.dumps, lines)).encode()))
        gone = ai_record("SUCCESS", deletedAt="2026-01-02T03:04:05.678Z")
        there = ai_record("SUCCESS", temporaryUrls=[f"{storage.url}/a.webp"], seeds=[7])
        told = Answer(body={"batch": batch})
        with (
            served(told, told, Answer(body=gone), Answer(body=there)) as (client, _),
            pytest.raises(errors.NotFound, match="of the items 1 were deleted"),
        ):
            client.batches.get("b").download(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["2-1.webp"]


def test_seeds_are_those_of_the_variations_that_were_not_withheld() -> None:
    told = ai_record("SUCCESS", seeds=[1, 2, 3], flagged=[{"seed": 2, "score": 0.9}])
    with served(Answer(body=told)) as (client, _):
        assert client.jobs.get("u").seeds == [1, 3]


def test_a_client_that_is_closed_waits_no_longer() -> None:
    with served(refusal(503, Retry_After="50")) as (client, script):
        failures: list[errors.ReduxqError] = []

        def ask() -> None:
            try:
                client.jobs.get("u")
            except errors.ReduxqError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: script.asked)
        client.close()
        thread.join(20)
    assert [error.message for error in failures] == ["the client was closed"]


def test_a_batch_is_one_request_and_lists_are_read_to_their_end() -> None:
    batch = {"uuid": "b", "status": "SUCCESS", "counts": {}}
    pages = (
        Answer(body={"items": [{"line": 1}], "nextCursor": "1"}),
        Answer(body={"items": [{"line": 2}], "nextCursor": None}),
    )
    with served(Answer(body={"batch": batch}), *pages) as (client, script):
        made = client.batches.create([{"imageUrl": "x"}], defaults={"seed": 1}, idempotency_key="k", priority="normal")
        assert [item["line"] for item in made.items()] == [1, 2]
    post, _, second = script.asked
    assert post.body == b'{"defaults": {"seed": 1}, "priority": "normal"}\n{"imageUrl": "x"}\n'
    assert (post.headers["idempotency-key"], post.headers["content-type"]) == ("k", "application/jsonl")
    assert "cursor=1" in second.path


def test_a_manifest_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"imageUrl": "x"}\n')
    with served(Answer(body={"batch": {"uuid": "b", "status": "PROCESSING", "counts": {}}})) as (client, script):
        client.batches.create(path)
        client.batches.create(str(path), metadata={"a": 1})
    assert script.asked[0].body == b'{"imageUrl": "x"}\n'
    assert script.asked[1].body == b'{"defaults": {}, "metadata": {"a": 1}}\n{"imageUrl": "x"}\n'


@pytest.mark.parametrize("kind", ["job", "batch"])
def test_what_is_not_there_is_not_found(kind: str) -> None:
    with (
        served(Answer(body={"aiRecord": None, "batch": None})) as (client, _),
        pytest.raises(errors.NotFound, match="u"),
    ):
        client.jobs.get("u") if kind == "job" else client.batches.get("u")
