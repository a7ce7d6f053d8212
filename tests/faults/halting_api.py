"""``python -m tests.faults.halting_api``: the real API, which a test can stop just before and after an acceptance.

Like :mod:`api.__main__` it loads nothing for the decoding processes.
"""

if __name__ == "__main__":
    from typing import Any

    from api.server import serve
    from shared.ids import JobId
    from shared.job_store import JobStore
    from shared.jobs import JobRecord
    from shared.programs import Program
    from shared.startup import start
    from tests.faults.halts import halt

    accept = JobStore.accept

    def halting_accept(store: JobStore, record: JobRecord, **options: Any) -> Program[JobId]:
        halt("before-accept")
        job_id = yield from accept(store, record, **options)
        halt("after-accept")
        return job_id

    setattr(JobStore, "accept", halting_accept)  # noqa: B010  mypy takes assignments for mistakes
    start("api", serve)
