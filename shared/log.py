"""One log format for our own events and for the libraries' lines."""

import json
import logging
import sys
from typing import Any

import structlog
from structlog.typing import Processor

from shared.jobs import JobRecord
from shared.settings import LogSettings


def about(record: JobRecord) -> dict[str, Any]:
    """Return what every line about a job tells, in whichever process: the request is the one that submitted it."""
    return {"job": record.id, "attempt": record.attempt, "team": record.team_id, "request": record.echo.request_id}


def configure_logging(settings: LogSettings) -> None:
    """Send every log line of this process to standard error in the chosen format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if settings.format == "json":
        encode = json.JSONEncoder(default=repr).encode  # json.dumps would make one for each line
        render = structlog.processors.JSONRenderer(lambda event, **_: encode(event))
        last = [structlog.processors.format_exc_info, render]
    else:
        # The default shows every local variable of a traceback, keys among them.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(  # not by way of the standard library, which takes three times as long for a line
        processors=[*shared, *last],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)
    for chatty in ("botocore", "urllib3", "httpx", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
