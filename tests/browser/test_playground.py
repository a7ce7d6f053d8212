"""The playground before a whole stack: from a dropped picture to a file on the disk."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.browser.conftest import PATIENCE, Visitor, enter
from tests.servers import free_port, wait_until
from tests.stack import Stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the browser may have to be fetched
PREFIX: Final = "/tools/pictures"


def hand_over(page: Page, path: Path, event: str) -> None:
    """Give the page a file as an event, as a person drops or pastes one."""
    page.evaluate(
        """([event, name, content]) => {
            const held = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt());
            held.items.add(new File([bytes], name, {type: "image/png"}));
            const told = {bubbles: true, cancelable: true, dataTransfer: held, clipboardData: held};
            const Kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.querySelector("#drop").dispatchEvent(new Kind(event, told));
        }""",
        [event, path.name, b64encode(path.read_bytes()).decode()],
    )
    expect(page.locator("#drop-title")).to_have_text(path.name)


def ask_little(page: Page, num_outputs: int = 1) -> None:
    """Choose what a CPU makes in a second or two."""
    page.get_by_label(str(num_outputs), exact=True).check()
    page.get_by_label("0.25, a preview").check()
    page.get_by_label("Steps").fill("3")


def vary(page: Page) -> None:
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).not_to_contain_text("variation")
    expect(page.locator("#told")).to_contain_text("variation")
    # A picture that did not load has no width.
    page.wait_for_function("[...document.querySelectorAll('#variations img')].every((each) => each.naturalWidth)")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_dropped_picture_becomes_a_file_on_the_disk(at_stack: Visitor, stack: Stack, photo: Path, width: int) -> None:
    page = at_stack(stack.told["api_url"], stack.told["api_key"], viewport={"width": width, "height": 800})
    hand_over(page, photo, "drop")
    expect(page.locator("#source-about")).to_have_text(
        f"640 \N{MULTIPLICATION SIGN} 480 pixels, {-(-photo.stat().st_size // 1000)} kB"
    )
    ask_little(page, 2)
    page.get_by_label("9:16, ").check()
    page.get_by_label("Seed", exact=True).fill("77")
    asked = page.locator("#price").inner_text()
    vary(page)
    expect(page.locator("#told")).to_contain_text(asked)
    expect(page.locator("#variations code")).to_have_text(["77", "78"])
    expect(page.locator("#entries li").first).to_contain_text("2 \N{MULTIPLICATION SIGN} 9:16")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").last.click()
    name = waiting.value.suggested_filename
    assert name.endswith(".webp")
    with Image.open(BytesIO(Path(waiting.value.path()).read_bytes())) as kept:
        assert (kept.format, kept.size) == ("WEBP", (384, 672))
    expect(page.get_by_role("button", name="Make variations")).to_be_enabled()  # the page is still there
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_variation_is_varied_again_and_compared_with_its_source(at_stack: Visitor, stack: Stack, photo: Path) -> None:
    page = at_stack(stack.told["api_url"], stack.told["api_key"])
    hand_over(page, photo, "paste")
    ask_little(page)
    vary(page)
    first = page.url
    page.get_by_role("button", name="More like this one").click()
    expect(page.locator("#drop-title")).not_to_have_text(photo.name)
    vary(page)
    assert page.url != first
    page.get_by_role("button", name="Compare", exact=True).click()
    wipe = page.get_by_label("How much of the source is shown")
    expect(wipe).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(wipe).to_have_value("51")
    assert page.locator("#frame").evaluate("frame => getComputedStyle(frame).getPropertyValue('--shown')") == "51%"
    page.get_by_role("button", name="Side by side").click()
    expect(wipe).to_be_hidden()
    left, right = (page.locator(part).bounding_box() for part in ("#before", "#after"))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_focused()
    page.get_by_label("Zoom into the variation").click()
    page.get_by_role("button", name="Actual size").click()
    assert page.locator("#after").evaluate("image => image.width === image.naturalWidth")


def test_the_lines_shown_make_the_same_request(at_stack: Visitor, stack: Stack, photo: Path, tmp_path: Path) -> None:
    url, key = stack.told["api_url"], stack.told["api_key"]
    page = at_stack(url, permissions=["clipboard-read", "clipboard-write"])
    page.locator("#file").set_input_files(photo)
    ask_little(page)
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_label("png").check()
    page.get_by_label("Withhold unsafe variations").uncheck()
    chosen = {"format": "png", "aspect_ratio": "4:3", "num_outputs": 1, "num_inference_steps": 3, "seed": 5}
    chosen |= {"megapixels": "0.25", "disable_safety_checker": True}
    environment = {**os.environ, "REDUXQ_API_KEY": key, "no_proxy": "*"}
    curl = copied(page, "cURL")
    said = subprocess.run(
        ["bash", "-euc", curl], cwd=photo.parent, env=environment, capture_output=True, check=True, timeout=100
    )
    with stack.client() as client:
        record = wait_for(client, json.loads(said.stdout)["aiRecord"]["uuid"])
    prompt = record["aiRecordDetail"]["promptObject"]
    assert prompt.pop("imageUrl").endswith("_it_s_a_cat.png")
    assert (record["status"], prompt) == ("SUCCESS", chosen)
    page.locator("summary", has_text="Python").click()
    python = copied(page, "Python").replace('"variations"', repr(str(tmp_path)))
    subprocess.run([sys.executable, "-c", python], cwd=photo.parent, env=environment, check=True, timeout=100)
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def copied(page: Page, what: str) -> str:
    page.get_by_role("button", name=f"Copy {what}").click()
    expect(page.locator("#said")).to_have_text(f"{what} copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_a_job_in_the_middle_is_gone_on_with_after_a_reload_and_can_be_canceled(
    at_stack: Visitor, stack: Stack, photo: Path
) -> None:
    page = at_stack(stack.told["api_url"], stack.told["api_key"])
    page.locator("#file").set_input_files(photo)
    page.get_by_label("4", exact=True).check()
    page.get_by_label("Steps").fill("50")
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("#told")).to_contain_text("of 50")
    page.reload()
    expect(page.locator("#told")).to_contain_text("of 50")
    expect(page.get_by_label("Steps")).to_have_value("50")
    expect(page.locator("#variations .waiting")).to_have_count(4)
    page.wait_for_function("document.querySelector('#source img').naturalWidth === 640")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#told")).to_have_text("Canceled; nothing was charged")
    with stack.client() as client:
        assert wait_for(client, page.url.partition("job=")[2])["additionalData"]["price"]["charged"] == 0


@contextmanager
def behind(prefix: str, target: str) -> Iterator[str]:
    """Run a proxy that shows a server below a path, and give the address there."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=target, timeout=60) as client:
            app.state.client = client
            yield

    async def pass_on(request: Request) -> Response:
        client: httpx.AsyncClient = request.app.state.client
        where = f"/{request.path_params['path']}?{request.url.query}"
        asked = client.build_request(request.method, where, headers=request.headers.raw, content=await request.body())
        answer = await client.send(asked, stream=True)
        done = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers, background=done)

    port = free_port()
    route = Route(f"{prefix}/{{path:path}}", pass_on, methods=["GET", "POST"])
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[route], lifespan=lifespan), port=port, log_config=None))
    thread = Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{port}{prefix}"
    server.should_exit = True
    thread.join()


def test_it_works_below_a_path(browser: Browser, stack: Stack, photo: Path) -> None:
    with behind(PREFIX, stack.told["api_url"]) as url:
        parts = urlsplit(url)
        visitor = Visitor(browser, f"{parts.scheme}://{parts.netloc}", stack.told["s3_url"])
        page = visitor(url, stack.told["api_key"])
        page.locator("#file").set_input_files(photo)
        ask_little(page)
        expect(page.locator("#curl")).to_contain_text(f"{url}/api/features")
        vary(page)
        page.reload()
        expect(page.locator("#variations img")).to_have_count(1)
        page.get_by_role("link", name="API reference").click()
        page.get_by_role("link", name="/models", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".request-url")).to_contain_text(f"{url}/models")
        expect(page.locator(".live-responses-table")).to_contain_text("flux-redux-dev")
        page.context.close()
        assert visitor.faults == []


def test_a_new_tab_needs_the_key_and_then_shows_the_job_that_its_address_names(
    at_stack: Visitor, stack: Stack, photo: Path
) -> None:
    page = at_stack(stack.told["api_url"], stack.told["api_key"])
    page.locator("#file").set_input_files(photo)
    ask_little(page)
    vary(page)
    second = page.context.new_page()
    second.set_default_timeout(PATIENCE)
    second.goto(page.url)
    expect(second.get_by_label("Your API key")).to_be_focused()
    enter(second, stack.told["api_key"])
    expect(second.locator("#variations code")).to_have_text(page.locator("#variations code").all_inner_texts())
