"""How every process begins: settings, logging, a records server that does not forget; or one clear line."""

import sys
from collections.abc import Callable

from shared.errors import ReduxqError
from shared.log import configure_logging
from shared.programs import connect, require_durable, run
from shared.settings import Settings, load_settings


def start(role: str, work: Callable[[Settings], None]) -> None:
    """Do the process's work; an error of ours ends it with exit code 1 and one line."""
    try:
        settings = load_settings()
        configure_logging(settings.log)
        with connect(settings.records.url.get_secret_value()) as records:
            run(records, require_durable(settings.records.durability))
        work(settings)
    except ReduxqError as error:
        sys.exit(f"reduxq {role}: {error.message}")
