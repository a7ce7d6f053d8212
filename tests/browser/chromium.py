"""A real browser without a window: this machine's, or Playwright's own, or Debian's."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserType, sync_playwright

from tests.ops.debian import Unobtainable, unpacked

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
PACKAGE = "chromium-headless-shell"
#: Its sandbox needs rights that containers and root do not have; the pages are our own.
OPTIONS = ["--no-sandbox"]


class NoBrowser(Exception):
    """There is no browser to test with."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser.

    Raises:
        NoBrowser: If none can be had; it says how to get one.
    """
    with sync_playwright() as playwright:
        browser = _launch(playwright.chromium)
        yield browser
        browser.close()


def _launch(kind: BrowserType) -> Browser:
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return kind.launch(executable_path=found, args=OPTIONS)
    if Path(kind.executable_path).exists():
        return kind.launch(args=OPTIONS)
    try:
        folder = unpacked(PACKAGE, whole=True) / "usr" / "lib"
    except Unobtainable as error:
        how = f"install Chromium, or run `python -m playwright install --with-deps chromium` ({error})"
        raise NoBrowser(f"the browser tests need Chromium: {how}") from error
    libraries = [folder, *folder.glob("*-linux-gnu"), *folder.glob("*-linux-gnu/pulseaudio")]
    environment: dict[str, str | float | bool] = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    return kind.launch(executable_path=folder / "chromium" / PACKAGE, args=OPTIONS, env=environment)
