"""Hears of jobs that end elsewhere, canceled or too late, so that the engine drops them at its next step."""

from collections.abc import Callable
from threading import Event
from typing import Final

import redis
import structlog

from shared.clock import Clock
from shared.completions import entries_after, newest_entry
from shared.ids import JobId
from shared.programs import run

log = structlog.get_logger(__name__)

PAUSE: Final = 0.5  #: seconds before the stream is read again when the server does not answer


def follow_endings(records: redis.Redis, ended: Callable[[JobId], None], clock: Clock, stop: Event) -> None:
    """Call ``ended`` with each job that ends, until told to stop; what this misses a renewal finds out.

    Args:
        records: A client of its own, whose socket timeout is longer than :data:`shared.completions.BLOCK`.
        ended: Called in the order in which the jobs ended.
        clock: Measures the pause when the server does not answer.
        stop: Ends this when the server answers next, after :data:`shared.completions.BLOCK` at the latest.
    """
    last = ""
    while not stop.is_set():
        try:
            last = last or run(records, newest_entry())
            for entry, job_id in run(records, entries_after(last)):
                ended(job_id)
                last = entry
        except Exception as error:  # noqa: BLE001  whatever it is, canceled jobs wait for this to go on
            log.warning("cannot follow completions", error=repr(error))
            last = ""  # a restarted server may count anew
            clock.wait(stop, PAUSE)
