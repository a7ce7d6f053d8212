"""The stream of jobs that ended: who waits for one, or works on one, hears of its end within milliseconds."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Final

import redis
import structlog

from shared.clock import Clock
from shared.ids import JobId
from shared.job_index import COMPLETIONS
from shared.programs import Program, run

log = structlog.get_logger(__name__)

BLOCK: Final = timedelta(seconds=5)  #: how long one read waits; the client's socket timeout must be longer
PAUSE: Final = 0.5  #: seconds before the stream is read again when the server does not answer


def newest_entry() -> Program[str]:
    """Return the id of the stream's newest entry."""
    entries = yield ("XREVRANGE", COMPLETIONS, "+", "-", "COUNT", 1)
    return str(entries[0][0]) if entries else "0-0"


def entries_after(last: str) -> Program[list[tuple[str, JobId]]]:
    """Wait for entries and return each one's id and job."""
    block_ms = int(BLOCK.total_seconds() * 1000)
    answer = yield ("XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", COMPLETIONS, last)
    streams = answer.items() if isinstance(answer, dict) else answer or []
    return [(entry_id, JobId(fields["id"])) for _, entries in streams for entry_id, fields in entries]


def follow_endings(records: redis.Redis, ended: Callable[[JobId], None], clock: Clock, stop: Event) -> None:
    """Call ``ended`` with each job that ends, until told to stop; while the server is away it may miss some.

    Args:
        records: A client of its own, whose socket timeout is longer than :data:`BLOCK`.
        ended: Called in the order in which the jobs ended.
        clock: Measures the pause when the server does not answer.
        stop: Ends this when the server answers next, after :data:`BLOCK` at the latest.
    """
    last = ""
    while not stop.is_set():
        try:
            last = last or run(records, newest_entry())
            for entry, job_id in run(records, entries_after(last)):
                ended(job_id)
                last = entry
        except Exception as error:  # noqa: BLE001  whatever it is, others wait for this to go on
            log.warning("cannot follow completions", error=repr(error))
            last = ""  # a restarted server may count anew
            clock.wait(stop, PAUSE)
