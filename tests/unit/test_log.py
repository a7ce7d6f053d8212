import subprocess
import sys

import pytest

SCRIPT = """
import structlog
from shared.log import configure_logging
from shared.settings import LogSettings
configure_logging(LogSettings(format="{form}"))
secret = "rq_" + "hush"
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("test").exception("it failed", job="job-1")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_in_the_log_does_not_show_what_variables_hold(form: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(form=form)]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "ZeroDivisionError" in written
    assert "job-1" in written
    assert "rq_hush" not in written
