"""A browser, and people who visit the playground with it."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.browser.chromium import chromium
from tests.driven import Driven
from tests.samples import encoded, picture
from tests.stack import Stack

PATIENCE = 60_000  #: milliseconds; the machine may be busy
expect.set_options(timeout=PATIENCE)


class Visitor:
    """Opens pages and notes what must not happen on them."""

    def __init__(self, browser: Browser, *origins: str) -> None:
        self._browser = browser
        self._origins = set(origins)
        self.faults: list[str] = []

    def __call__(self, url: str, key: str = "", fragment: str = "", **options: object) -> Page:
        """Open the playground in a browser of its own, with a key if one is given."""
        context = self._browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda request: self._note(request.url))
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(f"{url}/{fragment}")
        if key:
            enter(page, key)
        return page

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and f"{parts.scheme}://{parts.netloc}" not in self._origins:
            self.faults.append(f"asked elsewhere: {url}")

    def _hear(self, message: ConsoleMessage) -> None:
        if "Failed to load resource" not in message.text:  # an answer that is no success: the tests ask for such
            self.faults.append(f"{message.type}: {message.text}")


def enter(page: Page, key: str) -> None:
    page.get_by_label("Your API key").fill(key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#team")).to_contain_text("left")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For a module: as long as it lives, no other test can have an event loop."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def at_stack(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    visitor = Visitor(browser, stack.told["api_url"], stack.told["s3_url"])
    yield visitor
    _leave(visitor)


@pytest.fixture
def at_api(browser: Browser, driven: Driven, s3: str) -> Iterator[Visitor]:
    """Visits an API whose jobs the test takes from step to step."""
    visitor = Visitor(browser, str(driven.client.base_url).rstrip("/"), s3)
    yield visitor
    _leave(visitor)


def _leave(visitor: Visitor) -> None:
    for context in visitor._browser.contexts:
        context.close()
    assert visitor.faults == []


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture under a name that shells and forms must quote."""
    path = tmp_path_factory.mktemp("photos") / "it's a; cat.png"
    path.write_bytes(encoded(picture(640, 480), "PNG"))
    return path
