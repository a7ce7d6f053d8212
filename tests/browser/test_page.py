"""The page itself: what it allows, what it costs, and that everybody can use it."""

import json
import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from api.onemin_requests import PromptObject
from shared.cost import in_credits, price_in_usd
from shared.errors import SourceUnusable
from shared.jobs import SEEDS, OutputFormat
from shared.settings import Settings
from shared.sizes import AspectRatio, Megapixels, size_of
from shared.transitions import fail
from tests.browser.conftest import Visitor
from tests.clients.node import install_node
from tests.driven import Driven
from tests.samples import encoded, picture
from tests.stack import Stack, feature, upload, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
AXE = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def axe() -> str:
    """Deque's checker of accessibility, as a script."""
    return (install_node(AXE).modules / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def job(stack: Stack) -> str:
    """One that has ended well."""
    with stack.client() as client:
        source = upload(client, encoded(picture(640, 480), "PNG"))["key"]
        uuid: str = wait_for(client, feature(client, source, num_outputs=2)["uuid"])["uuid"]
        return uuid


def violations(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found: dict[str, Any] = page.evaluate("axe.run()")
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(at_stack: Visitor, stack: Stack, job: str, axe: str, scheme: str) -> None:
    url, key = stack.told["api_url"], stack.told["api_key"]
    page = at_stack(url, color_scheme=scheme, reduced_motion="reduce")
    assert violations(page, axe) == []
    page = at_stack(url, key, f"#job={job}", color_scheme=scheme, reduced_motion="reduce")
    expect(page.locator("#variations img")).to_have_count(2)
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.locator("summary", has_text="Python").click()
    assert violations(page, axe) == []
    page.get_by_role("button", name="Compare", exact=True).first.click()
    assert violations(page, axe) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing_to_mend_in_jobs_that_go_on_or_failed(
    at_api: Visitor, driven: Driven, axe: str, width: int, scheme: str
) -> None:
    going, failed = (driven.accept(num_outputs=3) for _ in range(2))
    for job in (going, failed):
        driven.begin(job)
    driven.step(going, 14, 28, 14, 0)
    driven.change(failed, lambda job: fail(job, attempt=job.attempt, error=SourceUnusable(), now=datetime.now(UTC)))
    options: dict[str, Any] = {"viewport": {"width": width, "height": 640}, "color_scheme": scheme}
    url = str(driven.client.base_url).rstrip("/")
    for job, text in ((going, "Step 14 of 28"), (failed, "Choose the picture again")):
        page = at_api(url, driven.key, f"#job={job}", reduced_motion="reduce", **options)
        expect(page.locator("#told")).to_contain_text(text)
        expect(page.locator("#entries li")).to_have_count(2)
        assert violations(page, axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_file_choice_cancel_and_history_are_reached_by_the_keyboard(at_api: Visitor, driven: Driven) -> None:
    job = driven.accept()
    page = at_api(str(driven.client.base_url).rstrip("/"), driven.key, f"#job={job}")
    expect(page.locator("#entries li")).to_have_count(1)
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    seen = list[str]()
    while "entries" not in seen:
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.closest('ul')?.id || ''"))
        assert len(seen) < 60, seen
    assert {"cancel", "file", "submit", "status"} <= set(seen)
    assert page.evaluate("document.activeElement.hash") == f"#job={job}"
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#told")).to_have_text("Canceled; nothing was charged")


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_is_wider_than_a_phone(at_stack: Visitor, stack: Stack, job: str, width: int) -> None:
    options: dict[str, Any] = {"viewport": {"width": width, "height": 640}}
    page = at_stack(stack.told["api_url"], stack.told["api_key"], f"#job={job}", **options)
    expect(page.locator("#variations img")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("button", name="Compare", exact=True).first.click()
    for mode in ("Side by side", "Compare with the source"):
        page.get_by_role("button", name=mode).click()
        assert page.locator("#viewer").evaluate("each => each.getBoundingClientRect().width") <= width
        assert page.locator("#scroller").evaluate("each => each.scrollWidth <= each.clientWidth")


def test_everything_is_reached_and_set_by_the_keyboard(at_api: Visitor, driven: Driven) -> None:
    page = at_api(str(driven.client.base_url).rstrip("/"), driven.key)
    page.get_by_label("4:3, ").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("9:16, ")).to_be_checked()
    for name in ("num_outputs", "megapixels", "num_inference_steps", "format", "output_quality", "seed"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Make variations")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Drop, paste or choose one first")


@pytest.mark.parametrize(
    ("name", "kind", "content", "what"),
    [
        ("cat.gif", "image/gif", b"GIF89a", "cat.gif is image/gif"),
        ("cat.png", "image/png", b"no picture", "cat.png is damaged or no picture"),
        ("cat.jpg", "image/jpeg", bytes(200_001), "cat.jpg has 200,001 bytes; at most 200,000 are allowed"),
        (
            "big.png",
            "image/png",
            encoded(picture(400, 300), "PNG"),
            "big.png has 400 \N{MULTIPLICATION SIGN} 300 pixels",
        ),
    ],
)
def test_what_the_server_would_refuse_is_said_at_once(
    at_api: Visitor, driven: Driven, name: str, kind: str, content: bytes, what: str
) -> None:
    url = str(driven.client.base_url).rstrip("/")
    models = httpx.get(f"{url}/models").json()
    models["models"][0]["limits"] |= {"maxUploadBytes": 200_000, "maxPixels": 100_000}
    page = at_api("about:blank#")
    page.route("**/models", lambda route: route.fulfill(json=models))
    page.goto(f"{url}/")
    expect(page.locator("#limits")).to_have_text("PNG, JPEG, or WEBP, at most 0.2 MB and 0.1 megapixels")
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})
    expect(page.get_by_role("alert")).to_contain_text(what)
    expect(page.locator("#drop-title")).to_have_text("Drop a picture here")


def test_the_price_shown_is_the_servers_to_the_credit(at_api: Visitor, driven: Driven) -> None:
    page = at_api(str(driven.client.base_url).rstrip("/"))
    page.locator("#price").get_by_text("credits").wait_for()
    for ratio, megapixels, (outputs, steps) in product(AspectRatio, Megapixels, [(1, 28), (3, 17), (4, 50)]):
        page.evaluate(
            """chosen => {
                const form = document.querySelector("#settings");
                for (const [name, value] of Object.entries(chosen)) form.elements[name].value = value;
                form.dispatchEvent(new Event("input"));
            }""",
            {"aspect_ratio": ratio, "megapixels": megapixels, "num_outputs": outputs, "num_inference_steps": steps},
        )
        usd = price_in_usd(size_of(ratio, megapixels), num_outputs=outputs, num_inference_steps=steps)
        credits_ = in_credits(usd, Settings().teams.credits_per_usd)
        assert f"({credits_:,} credits)" in page.locator("#price").inner_text()


def test_the_controls_offer_what_the_server_takes(at_api: Visitor, driven: Driven) -> None:
    page = at_api(str(driven.client.base_url).rstrip("/"))
    expect(page.locator("#ratios input")).to_have_count(len(AspectRatio))
    values = "inputs => inputs.map(each => each.value)"
    assert page.locator("[name=aspect_ratio]").evaluate_all(values) == list(AspectRatio)
    assert sorted(page.locator("[name=format]").evaluate_all(values)) == sorted(OutputFormat)
    assert sorted(page.locator("[name=megapixels]").evaluate_all(values)) == sorted(Megapixels)
    assert "undefined" not in page.locator("#settings").inner_text()
    limits = "each => [each.min, each.max]"
    assert page.get_by_label("Steps").evaluate(limits) == ["1", "50"]
    assert page.get_by_label("Quality").evaluate(limits) == ["1", "100"]
    assert page.get_by_label("Seed", exact=True).evaluate(limits) == ["0", str(SEEDS - 1)]
    shown = re.search(r"-d '(.*)'", page.locator("#curl").inner_text().replace("'\"$IMAGE\"'", "key"), re.DOTALL)
    assert shown
    sent = PromptObject(**json.loads(shown[1])["promptObject"])
    assert sent == PromptObject(imageUrl="key")
    page.get_by_label("png").check()
    expect(page.get_by_label("Quality")).to_be_disabled()


def test_pages_say_what_a_browser_may_do_with_them(lone_api: tuple[str, str], s3: str) -> None:
    for path in ("/", "/playground/app.js", "/playground/playground.css"):
        answer = httpx.get(f"{lone_api[0]}{path}").raise_for_status()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert f"img-src 'self' blob: data: {s3};" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        again = httpx.get(f"{lone_api[0]}{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert httpx.get(f"{lone_api[0]}/playground/../app.py").status_code == 404
    assert httpx.post(lone_api[0]).status_code == 405
