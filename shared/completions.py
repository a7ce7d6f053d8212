"""The stream of jobs that ended: who waits for one, or works on one, hears of its end within milliseconds."""

from datetime import timedelta
from typing import Final

from shared.ids import JobId
from shared.job_index import COMPLETIONS
from shared.programs import Program

BLOCK: Final = timedelta(seconds=5)  #: how long one read waits; the client's socket timeout must be longer


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
