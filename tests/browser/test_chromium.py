"""Where the browser of these tests comes from."""

import sys
from pathlib import Path

import pytest

from tests.browser.chromium import NoBrowser, chromium

pytestmark = pytest.mark.slow


def test_a_missing_browser_is_an_error_that_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    for name in ("PATH", "PLAYWRIGHT_BROWSERS_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(NoBrowser, match=r"install Chromium, or run `python -m playwright install"), chromium():
        raise AssertionError
