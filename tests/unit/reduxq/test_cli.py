import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from reduxq import client, parts
from reduxq.cli import app, main
from reduxq.demo import _keep
from reduxq.progress import describe
from shared.errors import InvalidRequest, NotFound, ReduxqError, Unauthorized, Unavailable
from tests.samples import encoded, picture


def failure_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the command line; return the line with which it fails."""
    monkeypatch.setattr(sys, "argv", ["reduxq", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value.code)  # sys.exit writes a text to standard error and exits with 1
    assert line.startswith("reduxq: ")
    assert "\n" not in line
    return line


def test_a_missing_image_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = failure_of(monkeypatch, "demo", "--image", str(tmp_path / "cat.png"), "--data", str(tmp_path / "data"))
    assert line.endswith("cat.png: No such file or directory")
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_take_the_results_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert "cannot write to" in failure_of(monkeypatch, "demo", "--out", str(tmp_path / "file" / "out"))


def test_an_unknown_setting_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_MODLE__BASE", "x")
    assert "REDUXQ_MODLE__BASE" in failure_of(monkeypatch, "up", "--data", str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_parts_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "NEEDED", ("celery", "no_such_package"))
    line = failure_of(monkeypatch, "up", "--data", str(tmp_path / "data"))
    assert "the local stack needs no_such_package; install reduxq with its extra 'local'" in line


def test_keys_of_a_folder_where_no_stack_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no stack runs in" in failure_of(monkeypatch, "keys", "list", "--data", str(tmp_path))


def test_keys_are_made_listed_and_ended(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_RECORDS__URL", valkey)
    run = CliRunner().invoke
    key = run(app, ["keys", "create", "--team", "lake", "--user", "ann"]).stdout.strip()
    key_id = key.split("_")[1]
    listed = run(app, ["keys", "list"]).stdout
    assert key_id in listed
    assert key not in listed
    assert run(app, ["keys", "revoke", key_id]).exit_code == 0
    assert "there is no key nobody" in failure_of(monkeypatch, "keys", "revoke", "nobody")


def test_all_settings_are_printed() -> None:
    assert "| `REDUXQ_RECORDS__URL` |" in CliRunner().invoke(app, ["settings"]).stdout


def test_an_earlier_demo_leaves_no_variation_among_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "variation-4.webp").touch()
    (tmp_path / "holiday.webp").touch()
    record = {"additionalData": {"seeds": [7], "temporaryUrls": ["a link"]}}
    client: Any = SimpleNamespace(download=lambda link: encoded(picture(), "WEBP"))
    _keep(record, encoded(picture(), "PNG"), client, tmp_path)
    made = ["aiRecord.json", "contact-sheet.png", "holiday.webp", "variation-1.webp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == made


@pytest.mark.parametrize(
    ("status", "additional", "text"),
    [
        ("PROCESSING", {"progress": None, "queuePosition": 2}, "queued, position 2"),
        ("PROCESSING", {"progress": None, "queuePosition": None}, "running, loading the picture"),
        ("PROCESSING", {"progress": {"step": 3, "steps": 8}, "queuePosition": None}, "running, step 3 of 8"),
        ("SUCCESS", {"progress": None, "queuePosition": None}, "success"),
    ],
)
def test_progress_in_words(status: str, additional: dict[str, Any], text: str) -> None:
    assert describe({"status": status, "additionalData": additional})[0] == text


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (404, NotFound),
        (415, InvalidRequest),
        (429, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_the_service_says_becomes_an_error_with_its_message(status: int, error: type[ReduxqError]) -> None:
    raised = client._error(httpx.Response(status, json={"message": "what is wrong"}))
    assert type(raised) is error
    assert raised.message == "what is wrong"


def test_an_answer_that_is_not_the_services_is_described() -> None:
    request = httpx.Request("GET", "http://proxy/")
    raised = client._error(httpx.Response(502, text="<html>", request=request))
    assert raised.message == "proxy answered 502 Bad Gateway"


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with client.Client("http://127.0.0.1:9", "key", trust_env=False) as nobody, pytest.raises(Unavailable, match="127"):
        nobody.result("x")
