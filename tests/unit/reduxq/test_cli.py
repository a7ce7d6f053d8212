import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from reduxq import Job
from reduxq.errors import ReduxqError, TooManyRequests, Unavailable
from reduxq.local import parts
from reduxq.local.demo import _follow, _keep
from reduxq.local.supervisor import TICK
from reduxq.operating.main import app, main
from tests.samples import encoded, picture
from tests.scripted import ai_record

Accounts = Callable[..., str]


def failure_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the command line; return the line with which it fails."""
    monkeypatch.setattr(sys, "argv", ["reduxq", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value.code)  # sys.exit writes a text to standard error and exits with 1
    assert line.startswith("reduxq: ")
    assert "\n" not in line
    return line


@pytest.fixture
def accounts(valkey: str, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """Runs a command on a fresh records server; returns what it prints."""
    monkeypatch.setenv("REDUXQ_RECORDS__URL", valkey)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()[1:]]


def ends_in(row: list[str], **duration: int) -> bool:
    """Whether a listed key ends after this time, give or take two minutes."""
    ends_at = datetime.fromisoformat(f"{row[4]} {row[5]}+00:00")
    return abs(ends_at - datetime.now(UTC) - timedelta(**duration)) < timedelta(minutes=2)


def test_a_missing_image_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = failure_of(monkeypatch, "demo", "--image", str(tmp_path / "cat.png"), "--data", str(tmp_path / "data"))
    assert "No such file or directory" in line
    assert "cat.png" in line
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_take_the_results_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "out")
    assert f"{out}: Not a directory" in failure_of(monkeypatch, "demo", "--out", out)


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


def test_keys_are_made_listed_replaced_and_ended(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    key = accounts("keys", "create", "--team", "lake", "--user", "ann", "--expires-days", "30").strip()
    key_id = key.split("_")[1]
    assert key not in accounts("keys", "list")
    [row] = rows(accounts("keys", "list"))
    assert (row[:3], row[-1]) == ([key_id, "lake", "ann"], "valid")
    assert ends_in(row, days=30)
    successor = accounts("keys", "rotate", key_id).strip()
    first, second = rows(accounts("keys", "list"))
    assert ends_in(first, hours=24)
    assert (second[:3], second[4:]) == ([successor.split("_")[1], "lake", "ann"], ["valid"])
    accounts("keys", "rotate", second[0], "--overlap-hours", "0", "--expires-days", "1")
    accounts("keys", "revoke", key_id)
    assert [row[-1] for row in rows(accounts("keys", "list"))] == ["revoked", "expired", "valid"]
    assert "there is no key nobody" in failure_of(monkeypatch, "keys", "revoke", "nobody")
    assert f"the key {key_id} was revoked" in failure_of(monkeypatch, "keys", "rotate", key_id)


def test_a_teams_webhook_secret_stays_until_it_is_rotated(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts("teams", "create", "lake")
    secret = accounts("teams", "webhook-secret", "lake")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", secret)
    assert accounts("teams", "webhook-secret", "lake") == secret
    rotated = accounts("teams", "webhook-secret", "lake", "--rotate")
    assert rotated != secret
    assert accounts("teams", "webhook-secret", "lake") == rotated
    assert "there is no team 'hill'" in failure_of(monkeypatch, "teams", "webhook-secret", "hill")


def test_teams_are_made_listed_and_given_credit(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts("teams", "create", "lake")
    accounts("teams", "create", "[b]farm", "--credit", "0")
    accounts("keys", "create", "--team", "lake", "--user", "ann")
    assert [row[:2] for row in rows(accounts("teams", "list"))] == [["[b]farm", "0"], ["lake", "100000000"]]
    accounts("teams", "set-credit", "lake", "35")
    accounts("teams", "set-credit", "lake", "7", "--user", "ann")
    assert rows(accounts("teams", "list"))[1][:2] == ["lake", "35"]
    assert "there is a team 'lake' already" in failure_of(monkeypatch, "teams", "create", "lake")
    assert "there is no team 'hill'" in failure_of(monkeypatch, "teams", "set-credit", "hill", "5")
    assert "there is no user 'bob'" in failure_of(monkeypatch, "teams", "set-credit", "lake", "5", "--user", "bob")


@pytest.mark.parametrize("credit", ["-1", "1.5", "ten", "1e3", "", f"{10**30}"])
def test_credits_are_whole_numbers_that_are_not_negative(accounts: Accounts, credit: str) -> None:
    accounts("teams", "create", "lake", "--credit", "5")
    for command in (["create", "hill", f"--credit={credit}"], ["set-credit", "lake", "--", credit]):
        refused = CliRunner().invoke(app, ["teams", *command])
        assert refused.exit_code == 2
        assert "Invalid value for" in refused.stderr
    assert [row[:2] for row in rows(accounts("teams", "list"))] == [["lake", "5"]]


def test_json_is_what_every_command_tells_scripts(accounts: Accounts) -> None:
    def told(*arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in accounts(*arguments, "--json").splitlines()]

    assert told("teams", "create", "lake", "--credit", "5") == [{"team": "lake", "credit": 5}]
    assert told("teams", "set-credit", "lake", "7") == [{"team": "lake", "user": None, "credit": 7}]
    (team,) = told("teams", "list")
    assert (team["name"], team["credit"]) == ("lake", 7)
    (secret,) = told("teams", "webhook-secret", "lake")
    assert secret["secret"].startswith("whsec_")
    (made,) = told("keys", "create", "--team", "lake")
    (successor,) = told("keys", "rotate", made["key"].split("_")[1])
    assert successor["key"] != made["key"]
    assert told("keys", "revoke", made["key"].split("_")[1]) == [{"id": made["key"].split("_")[1]}]
    keys = told("keys", "list")
    assert [key["revoked_at"] is None for key in keys] == [False, True]
    assert not any("digest" in key for key in keys)
    settings = {setting["variable"]: setting["default"] for setting in told("settings")}
    assert settings["REDUXQ_API__PORT"] == "8000"


def test_tables_fit_into_eighty_columns(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a-team-whose-name-is-rather-long"
    key = accounts("keys", "create", "--team", name, "--user", name, "--expires-days", "1").strip()
    listed = accounts("keys", "list").splitlines()
    assert max(map(len, listed)) <= 80
    assert key.split("_")[1] in listed[1]
    assert listed[1].rstrip().endswith("valid")
    assert max(len(line) for line in accounts("teams", "list").splitlines()) <= 80


def test_all_settings_are_printed() -> None:
    assert "| `REDUXQ_RECORDS__URL` |" in CliRunner().invoke(app, ["settings"]).stdout


def test_an_earlier_demo_leaves_no_variation_among_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "variation-4.webp").touch()
    (tmp_path / "holiday.webp").touch()
    record = ai_record("SUCCESS", seeds=[7], temporaryUrls=["http://s3/images/a.webp?signed"])["aiRecord"]
    connection: Any = SimpleNamespace(download=lambda link: encoded(picture(), "WEBP"))
    _keep(Job(connection, record), encoded(picture(), "PNG"), tmp_path)
    made = ["aiRecord.json", "contact-sheet.png", "holiday.webp", "variation-1.webp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_a_demo_asks_no_more_than_twice_a_second_and_waits_while_it_is_refused() -> None:
    moments: list[int] = []
    refused, away = TooManyRequests("this key has made 180 requests"), Unavailable("being started")
    answers: list[dict[str, Any] | ReduxqError] = [refused, ai_record(), away, ai_record("SUCCESS")]
    asked: list[int] = []

    def get(path: str, **parameters: Any) -> dict[str, Any]:
        asked.append(len(moments))
        answer = answers.pop(0)
        if isinstance(answer, ReduxqError):
            raise answer
        return answer

    service: Any = SimpleNamespace(get=get)
    stack: Any = SimpleNamespace(supervisor=SimpleNamespace(tend=lambda: moments.append(1)))
    _follow(job := Job(service, ai_record()["aiRecord"]), stack, Console(file=StringIO()))
    assert (job.status, answers) == ("SUCCESS", [])
    between = [after - before for before, after in pairwise([0, *asked])]
    assert min(between) * TICK >= timedelta(seconds=0.5)


@pytest.mark.parametrize(
    ("status", "additional", "text"),
    [
        ("PROCESSING", {"progress": None, "queuePosition": 2}, "queued, position 2"),
        ("PROCESSING", {"progress": None, "queuePosition": None}, "running, loading the picture"),
        ("PROCESSING", {"progress": {"step": 3, "steps": 8}, "queuePosition": None}, "running, step 3 of 8"),
        ("SUCCESS", {"progress": None, "queuePosition": None}, "succeeded"),
    ],
)
def test_progress_in_words(status: str, additional: dict[str, Any], text: str) -> None:
    nobody: Any = None
    assert Job(nobody, ai_record(status, **additional)["aiRecord"]).describe() == text
