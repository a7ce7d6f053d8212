"""The stream of jobs that ended: who waits for one, or works on one, hears of its end within milliseconds."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread
from typing import Final

import redis
import structlog

from shared.clock import Clock
from shared.connections import connect, run
from shared.ids import JobId
from shared.job_index import COMPLETIONS
from shared.programs import Program
from shared.settings import Settings

log = structlog.get_logger(__name__)

BLOCK: Final = timedelta(seconds=5)  #: how long one read waits; the client's socket timeout must be longer
PAUSE: Final = 0.5  #: seconds before the stream is read again when the server does not answer


def endings_after(last: str) -> Program[tuple[str, list[JobId]]]:
    """Wait for jobs to end; return what to ask after next time, and those jobs.

    Args:
        last: What the call before returned; empty at first, and after a failure, for a restarted server may count anew:
            then it waits for nothing, and of what ended before nobody hears.
    """
    if not last:
        newest = yield ("XREVRANGE", COMPLETIONS, "+", "-", "COUNT", 1)
        return (newest[0][0] if newest else "0-0"), []
    block_ms = int(BLOCK.total_seconds() * 1000)
    answer = yield ("XREAD", "COUNT", 1000, "BLOCK", block_ms, "STREAMS", COMPLETIONS, last)
    streams = answer.items() if isinstance(answer, dict) else answer or []
    entries = [entry for _, there in streams for entry in there]
    return (entries[-1][0] if entries else last), [JobId(fields["id"]) for _, fields in entries]


def follow_in_background(
    settings: Settings, ended: Callable[[JobId], None], clock: Clock, stop: Event, rest: float
) -> None:
    """Start a thread that does as :func:`follow_endings` says."""
    patient = connect(settings.records.url.get_secret_value(), timeout=2 * BLOCK)
    Thread(target=follow_endings, args=(patient, ended, clock, stop, rest), name="endings", daemon=True).start()


def follow_endings(
    records: redis.Redis, ended: Callable[[JobId], None], clock: Clock, stop: Event, rest: float
) -> None:
    """Call ``ended`` with each job that ends, until told to stop; while the server is away it may miss some.

    Args:
        records: A client of its own, whose socket timeout is longer than :data:`BLOCK`.
        ended: Called in the order in which the jobs ended.
        clock: Measures the pause when the server does not answer.
        stop: Ends this when the server answers next, after :data:`BLOCK` at the latest.
        rest: Seconds before it listens again: of many jobs it hears in one go, and those who wait for them go first.
    """
    last = ""
    while not stop.is_set():
        try:
            last, jobs = run(records, endings_after(last))
            for job_id in jobs:
                ended(job_id)
            if jobs:
                clock.wait(stop, rest)
        except Exception as error:  # noqa: BLE001  whatever it is, others wait for this to go on
            log.warning("cannot follow completions", error=repr(error))
            last = ""
            clock.wait(stop, PAUSE)
