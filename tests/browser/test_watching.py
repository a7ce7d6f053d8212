"""Jobs that the tests take from step to step, as the playground shows them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from shared.connections import run
from shared.errors import ModelFailed, ReduxqError, SourceUnusable
from shared.jobs import Flagged, JobRecord
from shared.keys import check_key, create_key, revoke_key
from shared.transitions import fail, finish
from tests.browser.conftest import Visitor, enter
from tests.driven import Driven
from tests.samples import MODEL, encoded, picture, variations_of
from tests.stack import feature, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def visit(at_api: Visitor, driven: Driven, fragment: str = "") -> Page:
    return at_api(str(driven.client.base_url).rstrip("/"), driven.key, fragment)


def test_every_state_is_told_also_after_a_reload_and_in_a_second_tab(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept(num_outputs=2)
    page = visit(at_api, driven, f"#job={job}")
    told = page.locator("#told")
    expect(told).to_have_text("Number 1 in the queue")
    expect(page.locator("#said")).to_have_text("Number 1 in the queue")
    expect(page.locator("#variations .waiting")).to_have_count(2)
    driven.begin(job)
    driven.step(job, 7)
    expect(told).to_have_text("Step 7 of 28")
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 0.25)
    page.reload()
    expect(told).to_have_text("Step 7 of 28")
    second = page.context.new_page()
    second.goto(page.url)
    enter(second, driven.key)
    driven.step(job, 8)
    for each in (page, second):
        expect(each.locator("#told")).to_have_text("Step 8 of 28")
    second.get_by_role("button", name="Cancel").click()
    for each in (page, second):
        expect(each.locator("#told")).to_have_text("Canceled; nothing was charged")
        expect(each.get_by_role("button", name="Cancel")).to_be_hidden()
        expect(each.locator("#entries li").first).to_contain_text("canceled")


def test_each_variations_steps_are_told(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept(num_outputs=3)
    page = visit(at_api, driven, f"#job={job}")
    waiting = page.locator("#variations .waiting")
    expect(waiting).to_have_text(["Waiting"] * 3)
    driven.begin(job)
    driven.step(job, 14, 28, 14, 0)
    expect(waiting).to_have_text(["Ready, the others follow", "Step 14 of 28", "Waiting"])
    driven.step(job, 15)  # a worker of an earlier release
    expect(waiting).to_have_text(["Step 15 of 28"] * 3)


def test_a_job_that_loads_its_picture_is_not_in_the_queue(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    page = visit(at_api, driven)
    page.route("**/events", lambda route: route.fulfill(status=502, body="<html>"))
    page.goto(f"{page.url}#job={job}")
    expect(page.locator("#told")).to_have_text("Loading the picture")


def test_a_job_is_shown_as_it_really_is_whatever_names_its_request_had(at_api: Visitor, driven: Driven) -> None:
    source = upload(driven.client, encoded(picture(), "PNG"))["key"]
    asked: dict[str, Any] = {
        "aspect_ratio": None,
        "megapixels": None,
        "n": 3,
        "output_format": "png",
        "num_inference_steps": 9,
    }
    job = feature(driven.client, source, **asked)["uuid"]
    page = visit(at_api, driven, f"#job={job}")
    expect(page.locator("#variations .waiting")).to_have_count(3)
    expect(page.locator("#variations")).to_have_css("--shape", "1152 / 896")
    expect(page.locator("#entries li").first).to_contain_text("3 \N{MULTIPLICATION SIGN} 4:3")
    for label in ("4:3, ", "1 megapixel", "png"):
        expect(page.get_by_label(label)).to_be_checked()
    expect(page.get_by_label("3", exact=True)).to_be_checked()
    expect(page.get_by_label("Steps")).to_have_value("9")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")  # the one that was drawn makes the same again
    expect(page.locator("#curl")).to_contain_text('"num_outputs": 3')


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (SourceUnusable(), "The source image can no longer be read. Choose the picture again"),
        (ModelFailed(), "The model failed while it made the variations. Try again; if it happens again"),
    ],
)
def test_a_failed_job_says_what_to_do(at_api: Visitor, driven: Driven, error: ReduxqError, what: str) -> None:
    job = driven.accept()
    driven.begin(job)
    driven.change(job, lambda record: fail(record, attempt=record.attempt, error=error, now=datetime.now(UTC)))
    page = visit(at_api, driven, f"#job={job}")
    expect(page.locator("#told")).to_contain_text(f"Failed: {what}")


def held(page: Page, what: str) -> list[Route]:
    """Keep requests waiting until the test lets them go."""
    routes: list[Route] = []
    page.route(what, lambda route: routes.append(route))  # noqa: PLW0108  Playwright sets attributes of it
    return routes


def test_a_file_that_is_chosen_stays_though_an_earlier_source_comes_later(
    at_api: Visitor, driven: Driven, photo: Path
) -> None:
    source = upload(driven.client, encoded(picture(), "PNG"), "old.png")["key"]
    job = feature(driven.client, source)["uuid"]
    page = visit(at_api, driven)
    routes = held(page, "**/api/assets/**")
    with page.expect_request("**/api/assets/**"):
        page.goto(f"{page.url}#job={job}")
    page.locator("#file").set_input_files(photo)
    expect(page.locator("#drop-title")).to_have_text(photo.name)
    routes[0].continue_()
    page.wait_for_timeout(500)
    expect(page.locator("#drop-title")).to_have_text(photo.name)
    expect(page.locator("#job")).to_be_hidden()


def test_what_is_sent_is_what_was_asked_for_though_another_file_is_chosen_meanwhile(
    at_api: Visitor, driven: Driven, photo: Path
) -> None:
    page = visit(at_api, driven)
    page.locator("#file").set_input_files(photo)
    routes = held(page, "**/api/assets")
    with page.expect_request("**/api/assets"):
        page.get_by_role("button", name="Make variations").click()
    page.get_by_label("2", exact=True).check()
    other = {"name": "other.png", "mimeType": "image/png", "buffer": encoded(picture(300), "PNG")}
    page.locator("#file").set_input_files(other)  # type: ignore[arg-type]
    expect(page.locator("#drop-title")).to_have_text("other.png")
    routes[0].continue_()
    expect(page.locator("#said")).to_have_text("The job was accepted; your team's jobs have it")
    (record,) = driven.client.get("/api/results").json()["aiRecords"]
    prompt = record["aiRecordDetail"]["promptObject"]
    assert (prompt["imageUrl"].endswith("_it_s_a_cat.png"), prompt["num_outputs"]) == (True, 1)
    expect(page.locator("#drop-title")).to_have_text("other.png")
    page.unroute("**/api/assets")
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).to_have_text("Number 2 in the queue")
    newest = driven.client.get("/api/results").json()["aiRecords"][0]["aiRecordDetail"]["promptObject"]
    assert (newest["imageUrl"].endswith("_other.png"), newest["num_outputs"]) == (True, 2)


def test_a_file_is_uploaded_again_for_another_teams_key(at_api: Visitor, driven: Driven, photo: Path) -> None:
    page = visit(at_api, driven)
    page.locator("#file").set_input_files(photo)
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).to_contain_text("in the queue")
    page.get_by_role("button", name="Use another key").click()
    enter(page, run(driven.records, create_key("others", "somebody")))
    expect(page.locator("#drop-title")).to_have_text(photo.name)
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).to_contain_text("in the queue")
    expect(page.locator("#alert")).to_be_empty()
    expect(page.locator("#entries li")).to_have_count(1)


def test_without_events_a_job_is_polled_to_its_end(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept()
    page = visit(at_api, driven)
    page.route("**/events", lambda route: route.fulfill(status=502, body="<html>"))
    page.goto(f"{page.url}#job={job}")
    expect(page.locator("#told")).to_have_text("Number 1 in the queue")
    driven.begin(job)
    driven.end(job)
    expect(page.locator("#told")).to_contain_text("1 variation in ")


def test_a_lost_connection_is_told_and_the_job_gone_on_with(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept()
    page = visit(at_api, driven)
    cut = "**/api/results/**"
    page.route(cut, lambda route: route.abort() if "wait=0" not in route.request.url else route.fallback())
    page.goto(f"{page.url}#job={job}")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    driven.begin(job)
    page.unroute(cut)
    expect(page.locator("#told")).to_have_text("Step 0 of 28")
    expect(page.locator("#alert")).to_be_empty()


def test_a_flagged_variation_is_shown_as_withheld_beside_the_others(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept(num_outputs=2, seed=40)
    driven.begin(job)
    driven.change(job, _flag_the_first)
    page = visit(at_api, driven, f"#job={job}")
    first, second = page.locator("#variations li").first, page.locator("#variations li").last
    expect(first).to_have_text("Seed 40 is withheld: the safety checker found it unsafe (0.93)")
    expect(second.locator("code")).to_have_text("41")


def _flag_the_first(job: JobRecord) -> JobRecord:
    return finish(
        job,
        attempt=job.attempt,
        variations=variations_of(job)[1:],
        flagged=(Flagged(seed=job.parameters.seeds[0], score=0.93),),
        model=MODEL,
        timings={},
        now=datetime.now(UTC),
    )


def test_a_key_that_has_ended_is_told_and_another_one_asked_for(at_api: Visitor, driven: Driven, photo: Path) -> None:
    page = visit(at_api, driven)
    page.locator("#file").set_input_files(photo)
    run(driven.records, revoke_key(run(driven.records, check_key(driven.key)).id))
    page.get_by_role("button", name="Make variations").click()
    expect(page.get_by_role("alert")).to_contain_text("Paste another key")
    expect(page.get_by_label("Your API key")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.locator("#drop-title")).to_have_text(photo.name)


def test_a_key_that_ends_in_mid_job_makes_way_for_another_and_the_job_goes_on(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept()
    driven.begin(job)
    driven.step(job, 7)
    page = visit(at_api, driven, f"#job={job}")
    expect(page.locator("#told")).to_have_text("Step 7 of 28")
    me = run(driven.records, check_key(driven.key))
    run(driven.records, revoke_key(me.id))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("Paste another key")
    enter(page, run(driven.records, create_key(me.team_name, me.user_name)))
    expect(page.locator("#alert")).to_be_empty()
    expect(page.locator("#told")).to_have_text("Step 7 of 28")
    driven.step(job, 8)
    expect(page.locator("#told")).to_have_text("Step 8 of 28")


def test_a_wrong_key_is_told(at_api: Visitor, driven: Driven) -> None:
    page = at_api(str(driven.client.base_url).rstrip("/"))
    page.get_by_label("Your API key").fill("rq_wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert")).to_contain_text("Paste another key")


def test_a_team_without_credit_is_told_what_to_do(at_api: Visitor, driven: Driven, photo: Path) -> None:
    driven.records.hset(f"team:{run(driven.records, check_key(driven.key)).team_id}", "credit", 5)
    page = visit(at_api, driven)
    page.locator("#file").set_input_files(photo)
    page.get_by_role("button", name="Make variations").click()
    expect(page.get_by_role("alert")).to_contain_text("only has 5 credits")
    expect(page.get_by_role("alert")).to_contain_text("Ask for fewer variations")


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_again_and_paid_once(
    at_api: Visitor, driven: Driven, photo: Path, status: int
) -> None:
    page = visit(at_api, driven)
    page.locator("#file").set_input_files(photo)
    keys: list[str | None] = []

    def accept_and_say_busy(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        route.fetch()
        route.fulfill(status=status, json={"message": "Busy"}, headers={"Retry-After": "7"})

    page.route("**/api/features", accept_and_say_busy)
    page.get_by_role("button", name="Make variations").click()
    expect(page.get_by_role("alert")).to_contain_text("Try again in 7 seconds")
    page.unroute("**/api/features")
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).to_have_text("Number 1 in the queue")
    assert len(driven.client.get("/api/results").json()["aiRecords"]) == len(keys) == 1


def test_the_history_is_read_page_by_page_and_by_status(at_api: Visitor, driven: Driven) -> None:
    jobs = [driven.accept() for _ in range(14)]
    driven.client.post(f"/api/results/{jobs[0]}/cancel").raise_for_status()
    page = visit(at_api, driven)
    entries = page.locator("#entries li")
    expect(entries).to_have_count(12)
    page.get_by_role("button", name="Show more").click()
    expect(entries).to_have_count(14)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.get_by_label("Which jobs").select_option("failed or canceled")
    expect(entries).to_have_count(1)
    expect(entries).to_contain_text("canceled")
    entries.get_by_role("link").click()
    expect(page.locator("#told")).to_have_text("Canceled; nothing was charged")
    assert page.url.endswith(f"#job={jobs[0]}")


def test_a_job_of_nobody_is_told(at_api: Visitor, driven: Driven) -> None:
    page = visit(at_api, driven, "#job=00000000-0000-0000-0000-000000000000")
    expect(page.get_by_role("alert")).to_contain_text("Your team has no such job")
