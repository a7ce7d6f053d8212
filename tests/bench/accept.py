"""Accepting a job durably, beside what plain Celery does in its place: publishing a message.

Both go to one Valkey that syncs before it answers, from one caller, in turns. Run by ``make bench``.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from celery import Celery

from shared.job_store import JobStore
from shared.programs import connect, run
from shared.queue import TASK
from tests import servers
from tests.samples import fund, record

ROUNDS = 7
CALLS = 300  #: in each round


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return time.perf_counter() - started


def main() -> None:
    store = JobStore(timedelta(seconds=6))
    with tempfile.TemporaryDirectory() as folder, servers.valkey(Path(folder)) as url, connect(url) as records:
        fund(records, 10**9, 10**9)
        app = Celery(broker=f"{url}/1", set_as_current=False)

        def accept() -> None:
            run(records, store.accept(record(created_at=datetime.now(UTC))))

        def publish() -> None:
            app.send_task(TASK, args=(str(uuid4()),))

        pairs = [(seconds(accept), seconds(publish)) for _ in range(ROUNDS + 1)][1:]
    accepting, publishing = (CALLS / statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [theirs / ours for ours, theirs in pairs]
    print(f"{accepting:8.0f} accepted/s: record, index, doorbell, credits, one commit")
    print(f"{publishing:8.0f} published/s: plain Celery, a message without a record")
    print(f"accepting is {statistics.median(ratios):.2f} times as fast (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()
