"""How every process begins: settings, logging, a records server that does not forget; or one clear line."""

import sys
from collections.abc import Callable
from threading import Event
from typing import Final

import structlog

from shared.clock import Clock
from shared.connections import connect, run
from shared.errors import Misconfigured, RecordsUnavailable, ReduxqError
from shared.log import configure_logging
from shared.programs import Program
from shared.settings import Settings, load_settings

log = structlog.get_logger(__name__)

PATIENCE: Final = 60.0  #: seconds that a process waits for the records server when it starts
PAUSE: Final = 1.0  #: seconds before it is asked again


def start(role: str, work: Callable[[Settings], None]) -> None:
    """Do the process's work; an error of ours ends it with exit code 1 and one line."""
    try:
        settings = load_settings()
        configure_logging(settings.log)
        _wait_for_records(settings, Clock())
        work(settings)
    except ReduxqError as error:
        sys.exit(f"reduxq {role}: {error.message}")


def _wait_for_records(settings: Settings, clock: Clock) -> None:
    """Return when the records server answers, if it does in time: it may be starting too, or be back from a crash."""
    until = clock.monotonic() + PATIENCE
    with connect(settings.records.url.get_secret_value()) as records:
        while True:
            try:
                return run(records, require_durable(settings.records.durability))
            except RecordsUnavailable as error:
                if clock.monotonic() > until:
                    raise
                log.warning("waiting for the records server", error=error.message)
            clock.wait(Event(), PAUSE)


def require_durable(durability: str) -> Program[None]:
    """Refuse a records server that could forget what it accepted, unless the operator vouches for it.

    Raises:
        Misconfigured: If it keeps no append-only file, or does not sync it before it answers.
        RecordsUnavailable: If it reads that file still; until then it says that it keeps none.
    """
    if durability == "managed":
        return
    persistence = yield ("INFO", "persistence")
    if int(persistence.get("loading", 0)):
        raise RecordsUnavailable("the records server does not answer yet: it is loading its data")
    if not int(persistence.get("aof_enabled", 0)):
        raise Misconfigured(
            "the records server keeps no append-only file and would forget accepted jobs: set 'appendonly yes' and "
            "'appendfsync always' there, or REDUXQ_RECORDS__DURABILITY=managed if its operator vouches for it"
        )
    for name, needed in (("appendfsync", "always"), ("maxmemory-policy", "noeviction")):
        value = (yield ("CONFIG", "GET", name)).get(name, needed)
        if value != needed:
            raise Misconfigured(
                f"the records server has '{name} {value}' and could forget accepted jobs: set '{name} {needed}' there, "
                "or REDUXQ_RECORDS__DURABILITY=managed if its operator vouches for it"
            )
