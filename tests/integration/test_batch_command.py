"""``reduxq batch`` at a whole local stack: interrupted, killed, repeated, and nothing uploaded or paid twice."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reduxq import Client
from reduxq.cli.state import FILE
from tests.customer import COMMAND, QUICK, SLOW, Customer
from tests.servers import wait_until
from tests.stack import Stack

ARGUMENTS = ("batch", "photos", "--out", "made")


@pytest.fixture
def customer(stack: Stack, tmp_path: Path) -> Customer:
    customer = Customer(stack, tmp_path)
    for number, name in enumerate(("cat.png", "dog.png", "sub/bird.png")):
        customer.photo(f"photos/{name}", 300 + number)
    return customer


def facts(customer: Customer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (customer.folder / "made" / FILE).read_text().splitlines() if line]


def made(customer: Customer) -> list[str]:
    folder = customer.folder / "made"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.webp"))


def batches(client: Client) -> list[str]:
    return [batch.uuid for batch in client.batches.list()]


def test_a_folder_becomes_variations_under_its_pictures_names_and_a_repeat_costs_nothing(customer: Customer) -> None:
    (customer.folder / "photos" / "broken.png").write_text("no picture")
    first = customer.run(*ARGUMENTS, "--num-outputs", "2", *QUICK, code=1)
    expected = [f"{stem}-{n}.webp" for stem in ("cat", "dog", "sub/bird") for n in (1, 2)]
    assert made(customer) == expected
    assert sorted(first.stdout.splitlines()) == [f"made/{name}" for name in expected]
    assert "reduxq: broken.png: asset: the image is of an unknown type" in first.stderr
    assert "3 of 3" in first.stderr

    left, reserved = customer.credit(), customer.stack.reservations()
    (customer.folder / "photos" / "broken.png").unlink()
    again = customer.run(*ARGUMENTS, "--num-outputs", "2", *QUICK, "--resume")
    assert (again.stdout, customer.credit(), customer.stack.reservations()) == ("", left, reserved)
    assert "--resume" in customer.run(*ARGUMENTS, *QUICK, code=2).stderr
    assert "other parameters" in customer.run(*ARGUMENTS, *SLOW, "--resume", code=2).stderr

    customer.photo("photos/fox.png", 290)
    more = customer.run(*ARGUMENTS, "--num-outputs", "2", *QUICK, "--resume", "--json")
    (fox,) = map(json.loads, more.stdout.splitlines())
    assert (fox["name"], fox["files"]) == ("fox.png", ["made/fox-1.webp", "made/fox-2.webp"])
    with customer.client() as client:
        assert len(batches(client)) == 2


def test_ctrl_c_leaves_the_batch_running_and_the_same_command_goes_on(customer: Customer) -> None:
    with customer.at_terminal(*ARGUMENTS, *QUICK, "--num-outputs", "4", "--priority", "normal") as terminal:
        terminal.await_text("of 3")
        wait_until(lambda: any("batch" in fact for fact in facts(customer)))
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    assert "the same command with --resume" in terminal.shown.replace("\r\n", "")
    assert "Traceback" not in terminal.shown
    customer.run(*ARGUMENTS, *QUICK, "--num-outputs", "4", "--priority", "normal", "--resume")
    assert len(made(customer)) == 12
    with customer.client() as client:
        (uuid,) = batches(client)
        jobs = list(client.jobs.list())
        assert sum(job.price["charged"] for job in jobs) == client.batches.get(uuid).record["price"]["charged"]
        assert len(jobs) == 3


def forget(customer: Customer, *names: str) -> None:
    """Take facts away, as a crash before they were noted would have, and cut the last line."""
    kept = [json.dumps(fact) for fact in facts(customer) if not fact.keys() & set(names)]
    (customer.folder / "made" / FILE).write_text("\n".join(kept) + '\n{"post": "cut')


@pytest.mark.parametrize("days", [0, 2])
def test_an_answer_that_was_lost_is_asked_for_again_and_is_the_same_batch(customer: Customer, days: int) -> None:
    customer.run(*ARGUMENTS, *QUICK)
    left = customer.credit()
    forget(customer, "batch", "saved", "over")
    if days:
        with customer.stack.records() as records:
            records.delete(*records.scan_iter("once:*"))
    customer.run(*ARGUMENTS, *QUICK, "--resume")
    assert len(made(customer)) == 3
    assert customer.credit() == left
    with customer.client() as client:
        assert len(batches(client)) == 1


def test_what_was_uploaded_before_a_kill_is_not_uploaded_again(customer: Customer) -> None:
    for number in range(40):
        customer.photo(f"photos/{number}.png", 400 + number)
    command = [*COMMAND, *ARGUMENTS, *QUICK]
    with subprocess.Popen(command, cwd=customer.folder, env=customer.environment, stderr=subprocess.DEVNULL) as first:
        wait_until(lambda: (customer.folder / "made" / FILE).exists() and len(facts(customer)) >= 3, 60)
        first.send_signal(signal.SIGKILL)
    before = {fact["key"] for fact in facts(customer) if "picture" in fact}
    for path in (customer.folder / "photos").glob("[1-9]*.png"):
        path.unlink()  # fewer to vary
    customer.run(*ARGUMENTS, *QUICK, "--resume")
    uploads = [fact for fact in facts(customer) if "picture" in fact]
    assert before <= {fact["key"] for fact in uploads}
    assert len({fact["picture"] for fact in uploads}) == len(uploads)


def test_the_same_bytes_are_uploaded_once_whatever_their_names_and_whatever_was_noted(customer: Customer) -> None:
    for name in ("a.png", "b.png", "c.png"):
        customer.photo(f"photos/{name}", 300)  # as cat.png
    customer.run(*ARGUMENTS, *QUICK)
    assert len(made(customer)) == 6
    uploads = {fact["picture"]: fact["key"] for fact in facts(customer) if "picture" in fact}
    assert len(uploads) == 3
    assert len([fact for fact in facts(customer) if "picture" in fact]) == 3
    assert sorted(key.rpartition("_")[2] for key in uploads.values()) == ["a.png", "bird.png", "dog.png"]
    (customer.folder / "made" / FILE).unlink()
    customer.run(*ARGUMENTS, *QUICK)
    assert {fact["picture"]: fact["key"] for fact in facts(customer) if "picture" in fact} == uploads


def test_a_source_that_is_gone_is_uploaded_again_when_its_picture_is_to_be_varied_again(customer: Customer) -> None:
    customer.run(*ARGUMENTS, *QUICK)
    with customer.stack.client(customer.key) as client:
        for fact in facts(customer):
            if "picture" in fact:
                client.delete(f"/api/assets/{fact['key']}").raise_for_status()
    photos = customer.folder / "photos"
    (photos / "cat.png").rename(photos / "lion.png")
    assert customer.run(*ARGUMENTS, *QUICK, "--resume").stdout.splitlines() == ["made/lion-1.webp"]
    # The others were not sent before the sources went:
    first = next(fact for fact in facts(customer) if "manifest" in fact)
    forget(customer, "post", "saved", "over")
    with (customer.folder / "made" / FILE).open("a") as file:
        file.write("\n" + json.dumps(first | {"post": "later"}))
    failed = customer.run("batch", "--out", "made", "--resume", code=1)
    assert failed.stderr.count("there is no image") == 3
    again = customer.run(*ARGUMENTS, *QUICK, "--retry-failed", code=1)
    assert sorted(again.stdout.splitlines()) == ["made/dog-1.webp", "made/lion-1.webp", "made/sub/bird-1.webp"]
    assert again.stderr.count("there is no image") == 1  # cat.png has another name now


def test_variations_that_were_deleted_before_they_came_are_told(customer: Customer) -> None:
    uuid = json.loads(customer.run("submit", "photos/cat.png", "--wait", "--json", *QUICK).stdout)["uuid"]
    customer.run(*ARGUMENTS, *QUICK)
    (first, *_) = [fact["saved"] for fact in facts(customer) if "saved" in fact]
    with customer.stack.client(customer.key) as client:
        for each in (first, uuid):
            client.delete(f"/api/results/{each}").raise_for_status()
    for command in ("download", "wait"):
        told = customer.run(command, uuid, code=1)
        assert (told.stdout, "the variations were deleted at 20" in told.stderr) == ("", True)
    forget(customer, "saved", "over")
    told = customer.run(*ARGUMENTS, *QUICK, "--resume", code=1)
    assert told.stderr.count("the variations were deleted at 20") == 1
    assert len(told.stdout.splitlines()) == 2


def test_a_batch_that_the_service_forgot_is_told_once_and_stops_no_other(customer: Customer) -> None:
    customer.run(*ARGUMENTS, *QUICK)
    with customer.client() as client, customer.stack.records() as records:
        (uuid,) = batches(client)
        records.delete(f"batch:{uuid}")
    customer.photo("photos/fox.png", 290)
    assert customer.run(*ARGUMENTS, *QUICK, "--resume").stdout == "made/fox-1.webp\n"  # all of the other was here
    forget(customer, "over")
    customer.photo("photos/eel.png", 280)
    told = customer.run(*ARGUMENTS, *QUICK, "--resume", code=1)
    assert f"reduxq: batch {uuid}: the service keeps it no longer" in told.stderr
    assert told.stdout == "made/eel-1.webp\n"
    assert customer.run(*ARGUMENTS, *QUICK, "--resume").stderr.count("no longer") == 0


def test_the_key_of_another_team_is_refused_before_anything_seems_to_be_gone(customer: Customer) -> None:
    customer.run(*ARGUMENTS, *QUICK)
    other = Customer(customer.stack, customer.folder)
    refused = other.run(*ARGUMENTS, *QUICK, "--resume", code=2)
    assert "what is in made was made with another team's key" in refused.stderr


def test_what_was_canceled_is_tried_again_when_asked_to(customer: Customer) -> None:
    assert "name the pictures" in customer.run("batch", "--out", "made", code=2).stderr
    with customer.at_terminal(*ARGUMENTS, *SLOW) as terminal:
        wait_until(
            lambda: (customer.folder / "made" / FILE).exists() and any("batch" in fact for fact in facts(customer))
        )
        customer_cancels = [*ARGUMENTS[:1], "--out", "made", "--cancel"]
        assert "another reduxq batch works in made" in customer.run(*customer_cancels, code=1).stderr
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    (told,) = map(json.loads, customer.run(*customer_cancels, "--json").stdout.splitlines())
    assert told["counts"]["total"] == 3
    ended = customer.run("batch", "--out", "made", "--resume", code=1)
    assert "The job was canceled." in ended.stderr
    with customer.client() as client:
        (uuid,) = batches(client)
        assert client.batches.get(uuid).status == "CANCELED"
    with customer.at_terminal("batch", "--out", "made", "--retry-failed") as terminal:
        terminal.await_text("0 of 3")
        terminal.press("\x03")
        assert terminal.wait(20) == 130
    customer.run(*customer_cancels)
