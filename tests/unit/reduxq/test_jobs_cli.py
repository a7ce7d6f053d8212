import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from reduxq.operating.main import app, main
from shared.connections import run
from shared.errors import ModelFailed
from shared.ids import JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, Webhook, WebhookEvent
from shared.progress import Progress
from shared.teams import TeamUser, ensure_user, set_credit
from shared.transitions import fail
from tests.samples import PRICE, record, start

STORE = JobStore(timedelta(seconds=30))
BROKEN = "the model broke in its seventeenth attention layer"
Jobs = Callable[..., Result]


@pytest.fixture
def jobs(valkey: str, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Runs ``reduxq jobs`` on a fresh records server."""
    monkeypatch.setenv("REDUXQ_RECORDS__URL", valkey)
    return lambda *arguments: CliRunner().invoke(app, ["jobs", *arguments])


@pytest.fixture
def ada(records: redis.Redis) -> TeamUser:
    return run(records, ensure_user("lake", "Ada"))


def accept(records: redis.Redis, user: TeamUser, age: timedelta = timedelta(), **fields: Any) -> JobRecord:
    own = {"team_id": user.team_id, "user_id": user.user_id, "created_at": datetime.now(UTC) - age}
    job = record().model_copy(update=own | fields)
    run(records, STORE.accept(job))
    return job


def failed(records: redis.Redis, user: TeamUser, **fields: Any) -> JobRecord:
    job = accept(records, user, **fields)
    run(records, STORE.update(job.id, start))
    return run(
        records, STORE.update(job.id, partial(fail, attempt=1, error=ModelFailed(BROKEN), now=datetime.now(UTC)))
    )


def ids(listed: Result) -> list[str]:
    assert listed.exit_code == 0, listed.output
    return [json.loads(line)["id"] for line in listed.stdout.splitlines()]


def test_jobs_are_listed_by_team_status_and_age_the_newest_first(
    jobs: Jobs, records: redis.Redis, ada: TeamUser
) -> None:
    old, older = (accept(records, ada, timedelta(minutes=minutes)).id for minutes in (5, 20))
    bob = run(records, ensure_user("hill", "Bob"))
    new = failed(records, bob).id
    running = accept(records, bob, timedelta(hours=2)).id
    run(records, STORE.update(running, start))
    for options, expected in (
        ([], [new, old, older, running]),
        (["--team", "hill"], [new, running]),
        (["--status", "queued"], [old, older]),
        (["--status", "queued", "--status", "running"], [old, older, running]),
        (["--older-than", "10m"], [older, running]),
        (["--older-than", "90s", "--team", "lake", "--limit", "1"], [old]),
        (["--older-than", "1d"], []),
    ):
        assert ids(jobs("list", "--json", *options)) == expected, options


def test_a_listed_job_is_one_line_that_says_why_it_failed(jobs: Jobs, records: redis.Redis, ada: TeamUser) -> None:
    job = failed(records, ada, age=timedelta(minutes=20))
    _, line = jobs("list").stdout.splitlines()
    assert line.split(maxsplit=8)[:8] == [job.id, "lake", "failed", "20m", "1", "0", "normal", f"{job.parameters.work}"]
    assert line.rstrip().endswith("the model broke in its seventeenth…")
    assert f"{'failure.message':32}  {BROKEN}" in jobs("show", job.id).stdout.splitlines()


def test_a_team_that_does_not_exist_is_said(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reduxq", "jobs", "list", "--team", "none"])
    with pytest.raises(SystemExit, match="there is no team 'none'"):
        main()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("age", ["10", "m", "-5m", "1.5h", "5 m", "5w", "", "99999999d"])
def test_an_age_is_a_number_and_its_unit(jobs: Jobs, age: str) -> None:
    refused = jobs("list", f"--older-than={age}")
    assert refused.exit_code == 2
    assert "is not a number and its unit" in " ".join(refused.stderr.split())


def test_all_that_is_known_of_a_running_job_is_shown(jobs: Jobs, records: redis.Redis, ada: TeamUser) -> None:
    job = accept(records, ada)
    running = run(records, STORE.update(job.id, start))
    run(records, STORE.renew(job.id, 1, Progress(3, 28)))
    told = json.loads(jobs("show", job.id, "--json").stdout)
    assert 0 < told["lease_seconds"] <= 30
    assert (told["progress"], told["queue_position"]) == ({"step": 3, "steps": 28, "each": []}, None)
    assert told["planned_keys"] == list(running.planned_keys)
    records.delete(f"lease:{job.id}")
    lines = dict(line.split(maxsplit=1) for line in jobs("show", job.id).stdout.splitlines())
    assert (lines["team"], lines["status"], lines["lease_seconds"]) == ("lake", "running", "0.0")
    assert (lines["progress.step"], lines["parameters.seed"]) == ("3", "7")
    assert "failure.message" not in lines


def test_a_queued_jobs_place_is_shown_and_nothing_it_carries_steers_the_terminal(
    jobs: Jobs, records: redis.Redis, ada: TeamUser
) -> None:
    echo = record().echo.model_copy(update={"conversation_id": "a\x1b[2Jb"})
    job = accept(records, ada, echo=echo)
    shown = jobs("show", job.id).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["queue_position"], lines["echo.conversation_id"]) == ("1", r'"a\u001b[2Jb"')
    assert "lease_seconds" not in lines
    assert "\x1b" not in shown


def test_jobs_are_canceled_and_one_that_is_unknown_keeps_no_other_from_it(
    jobs: Jobs, records: redis.Redis, ada: TeamUser
) -> None:
    first, second = accept(records, ada), accept(records, ada)
    done = jobs("cancel", first.id, "nobody", second.id)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [f"{first.id} canceled", f"{second.id} canceled"]
    assert done.stderr == "reduxq: nobody: there is no job nobody\n"
    assert [json.loads(line) for line in jobs("cancel", first.id, "nobody", "--json").stdout.splitlines()] == [
        {"id": first.id, "status": "canceled"},
        {"id": "nobody", "error": {"code": "NOT_FOUND", "message": "there is no job nobody"}},
    ]
    again = jobs("cancel", first.id)
    assert (again.exit_code, again.stdout) == (0, f"{first.id} canceled\n")


def test_a_record_that_cannot_be_read_keeps_no_other_job_from_being_canceled(
    jobs: Jobs, records: redis.Redis, ada: TeamUser
) -> None:
    job = accept(records, ada)
    records.hset("job:bad", mapping={"record": "{}", "version": 1})
    done = jobs("cancel", "bad", job.id)
    assert (done.exit_code, done.stdout) == (1, f"{job.id} canceled\n")
    assert done.stderr.startswith("reduxq: bad: the record of job bad cannot be read")


def test_a_list_has_an_end(jobs: Jobs) -> None:
    assert jobs("list", "--limit", "1000").exit_code == 0
    assert jobs("list", "--limit", "1001").exit_code == 2


def test_a_failed_job_is_tried_again_and_what_cannot_be_is_said_in_a_line(
    jobs: Jobs, records: redis.Redis, ada: TeamUser
) -> None:
    bob = run(records, ensure_user("hill", "Bob"))
    broken, poor = failed(records, ada), failed(records, bob)
    going = accept(records, ada)
    run(records, STORE.update(going.id, start))
    run(records, set_credit("hill", PRICE - 1))
    done = jobs("retry", poor.id, going.id, broken.id)
    assert (done.exit_code, done.stdout) == (1, f"{broken.id} queued\n")
    unpaid, illegal = done.stderr.splitlines()
    assert unpaid.startswith(f"reduxq: {poor.id}: The feature requires {PRICE} credits")
    assert illegal.startswith(f"reduxq: {going.id}: job {going.id} is running; only one that has failed")
    assert ids(jobs("list", "--json", "--status", "queued")) == [broken.id]


def test_a_webhook_is_told_once_more(jobs: Jobs, records: redis.Redis, ada: TeamUser) -> None:
    job = failed(records, ada, webhook=Webhook(url="https://example.com/", events=(WebhookEvent.FINISHED,)))
    call = f"{ada.team_id} {job.id} job.finished"
    assert records.zadd("webhooks:due", {call: 0}) == 0  # it stood there already
    assert jobs("redeliver", job.id).stdout == f"{job.id} failed\n"
    assert float(str(records.zscore("webhooks:due", call))) > 0
    never = jobs("redeliver", job.id, "--event", "job.started")
    assert (never.exit_code, never.stderr.count("has no webhook that is told of job.started")) == (1, 1)


def test_a_command_about_no_job_at_all_is_refused(jobs: Jobs) -> None:
    for command in ("show", "cancel", "retry", "redeliver"):
        assert jobs(command).exit_code == 2
    unknown = CliRunner().invoke(app, ["jobs", "show", JobId("nobody")])
    assert "there is no job nobody" in str(unknown.exception)
