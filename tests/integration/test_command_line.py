"""The customers' commands at a whole local stack: through pipes, and at a terminal."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.customer import QUICK, SLOW, Customer
from tests.servers import wait_until
from tests.stack import Stack


@pytest.fixture
def customer(stack: Stack, tmp_path: Path) -> Customer:
    customer = Customer(stack, tmp_path)
    customer.photo("cat.png")
    customer.photo("dog.png", 300)
    return customer


def test_a_job_goes_from_pipe_to_pipe(customer: Customer) -> None:
    submitted = customer.run("submit", "cat.png", "-n", "2", *QUICK)
    uuid = submitted.stdout.strip()
    waited = customer.run("wait", uuid)
    assert [link.startswith("http") for link in waited.stdout.splitlines()] == [True, True]
    assert customer.run("status", uuid).stdout == f"{uuid}  succeeded\n"
    files = customer.run("download", uuid, "--out", "made").stdout.splitlines()
    assert files == [f"made/{uuid}-{n}.webp" for n in (1, 2)]
    assert all((customer.folder / file).stat().st_size for file in files)
    listed = customer.run("list").stdout
    assert uuid in listed
    assert "succeeded" in listed
    assert "\x1b" not in submitted.stderr + waited.stderr + listed


def test_several_pictures_get_files_of_their_own_and_plain_lines_tell_how_they_get_on(customer: Customer) -> None:
    done = customer.run("submit", "cat.png", "dog.png", "cat.png", "--out", "made", *QUICK)
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [file.name.partition("-")[0] for file in files] == ["cat", "dog", "cat"]
    assert len(set(files)) == len(list((customer.folder / "made").iterdir())) == 3
    lines = done.stderr.splitlines()
    assert lines.count("dog.png: succeeded") == 1
    assert lines.count("cat.png: succeeded") == 2


def test_json_is_one_object_on_a_line_for_each(customer: Customer) -> None:
    (customer.folder / "broken.png").write_text("no picture")
    done = customer.run("submit", "cat.png", "broken.png", "nowhere.png", "--wait", "--json", *QUICK, code=1)
    cat, broken, nowhere = map(json.loads, done.stdout.splitlines())
    assert (cat["name"], cat["status"], len(cat["additionalData"]["temporaryUrls"])) == ("cat.png", "SUCCESS", 1)
    assert (broken["name"], broken["error"]["code"]) == ("broken.png", "UNSUPPORTED_MEDIA_TYPE")
    assert (nowhere["name"], nowhere["error"]["message"]) == ("nowhere.png", "No such file or directory")
    assert [line.split(":")[:2] for line in done.stderr.splitlines()] == [
        ["reduxq", " broken.png"],
        ["reduxq", " nowhere.png"],
    ]
    assert [json.loads(line)["uuid"] for line in customer.run("list", "--json").stdout.splitlines()] == [cat["uuid"]]


def test_json_of_every_command_about_jobs_is_the_record_and_more(customer: Customer) -> None:
    def told(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in customer.run(*arguments, "--json", code=code).stdout.splitlines()]

    uuid, slow = (told("submit", "cat.png", *how)[0]["uuid"] for how in (QUICK, SLOW))
    (canceled,) = told("cancel", slow)
    (waited,) = told("wait", uuid)
    assert (waited["name"], waited["uuid"], waited["status"]) == (uuid, uuid, "SUCCESS")
    wait_until(lambda: "CANCELED" in customer.run("status", slow).stdout, 60)
    of_both = told("status", uuid, slow)
    assert [each["status"] for each in of_both] == ["SUCCESS", "FAILURE"]
    assert canceled["uuid"] == slow
    (failed,) = told("wait", slow, code=1)
    assert failed["aiRecordDetail"]["resultObject"]["code"] == "CANCELED"
    (downloaded,) = told("download", uuid, "--out", "made")
    assert downloaded["files"] == [f"made/{uuid}-1.webp"]
    (nobody,) = told("download", "nobody", code=1)
    assert nobody["error"]["message"] == "there is no job nobody"
    with customer.at_terminal("watch", "--json") as terminal:
        wait_until(lambda: terminal.shown.count("\n") == 2)
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    lines = [json.loads(line) for line in terminal.shown.replace("^C", "").splitlines() if line.startswith("{")]
    assert [each["uuid"] for each in lines] == [uuid, slow]


def test_a_job_is_canceled_and_whoever_waits_for_it_fails(customer: Customer) -> None:
    uuid = customer.run("submit", "cat.png", *SLOW).stdout.strip()
    assert "not ended" in customer.run("download", uuid, code=1).stderr
    customer.run("cancel", uuid)
    wait_until(lambda: "CANCELED" in customer.run("status", uuid).stdout, 60)
    waited = customer.run("wait", uuid, code=1)
    assert waited.stdout == ""
    assert waited.stderr.splitlines()[-1] == f"reduxq: {uuid}: The job was canceled."


def test_what_is_wrong_is_said_on_one_line_with_an_exit_code_of_its_own(customer: Customer) -> None:
    refused = customer.run("submit", "cat.png", "--aspect-ratio", "5:7", code=1)
    assert refused.stderr.startswith("reduxq: cat.png: promptObject.aspect_ratio")
    assert refused.stderr.count("\n") == 1
    assert "there is no job" in customer.run("status", "00000000-0000-0000-0000-000000000000", code=1).stderr
    customer.run("submit", "--no-such-option", code=2)
    customer.environment["REDUXQ_API_KEY"] = "wrong"
    assert customer.run("list", code=3).stderr == "reduxq: The API key is not valid\n"
    del customer.environment["REDUXQ_API_KEY"]
    assert customer.run("submit", "cat.png", code=3).stderr.count("\n") == 1


def test_a_terminal_shows_a_bar_for_each_job_and_the_results_at_the_end(customer: Customer) -> None:
    with customer.at_terminal("submit", "cat.png", "dog.png", "--out", "made", "--megapixels", "0.25") as terminal:
        assert terminal.wait(100) == 0
    assert b"\x1b[" in terminal.raw
    assert "step" in terminal.shown
    bars = [line.split()[0] for line in terminal.shown.splitlines()[-4:-2] if "━" in line]
    assert bars == ["cat.png", "dog.png"]
    last = terminal.shown.rstrip().splitlines()[-2:]
    assert [line.startswith(f"made/{name}-") for line, name in zip(last, ("cat", "dog"), strict=True)] == [True, True]


def test_ctrl_c_ends_the_wait_and_not_the_job(customer: Customer) -> None:
    with customer.at_terminal("submit", "cat.png", "--wait", *SLOW) as terminal:
        terminal.await_text("running")
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    assert "interrupted; what was accepted goes on" in terminal.shown
    assert "Traceback" not in terminal.shown
    with customer.client() as client:
        (job,) = client.jobs.list()
        assert job.status == "PROCESSING"
        job.cancel()


def test_watch_shows_the_teams_jobs_until_ctrl_c(customer: Customer) -> None:
    with customer.at_terminal("watch") as terminal:
        terminal.await_text("accepted")
        uuid = customer.run("submit", "cat.png", *QUICK).stdout.strip()
        terminal.await_text(uuid[:8])
        terminal.await_text("succeeded")
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    assert "Traceback" not in terminal.shown


def test_login_asks_for_the_key_without_showing_it_and_no_command_line_has_it(customer: Customer) -> None:
    key = customer.environment.pop("REDUXQ_API_KEY")
    with customer.at_terminal("login") as terminal:
        terminal.await_text("API key: ")  # the blank comes when nothing typed is shown any more
        terminal.press(f"{key}\n")
        terminal.await_text("config.toml")
        assert terminal.wait(20) == 0
    assert key not in terminal.shown
    kept = customer.folder / ".config" / "reduxq" / "config.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    told = json.loads(customer.run("login", "--json", typed=f"{key}\n").stdout)
    assert told == {"url": customer.environment["REDUXQ_URL"], "file": str(kept)}
    with customer.at_terminal("watch") as terminal:
        terminal.await_text("accepted")
        command_lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert any(b"watch" in each for each in command_lines)
        assert not any(key.encode() in each for each in command_lines)
    kept.chmod(0o644)
    assert "chmod 600" in customer.run("list", code=1).stderr
