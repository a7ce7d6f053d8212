"""What must be true of all jobs when everything is over, counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import redis
from PIL import Image

from shared.connections import run
from shared.errors import NotFound
from shared.ids import JobId
from shared.job_index import EVERYWHERE, index
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus, Variation
from shared.object_store import ObjectStore
from tests.models import seed_of


@dataclass
class Tally:
    """How many jobs broke which promise; nothing is right but zeros."""

    lost: int = 0  #: accepted, and nothing is known of them
    stuck: int = 0  #: not ended
    published_twice: int = 0  #: with more than one completion entry
    untold: int = 0  #: ended without a completion entry
    unreadable: int = 0  #: succeeded, and a variation is not there or is another picture
    made_twice: int = 0  #: jobs that no client knows of: a request that was sent again made a second one
    credits_missing: int = 0  #: taken from the team beyond what its jobs cost
    ends: Counter[str] = field(default_factory=Counter)  #: jobs by status

    @property
    def broken(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if value and name != "ends"}


def stored_jobs(records: redis.Redis, store: JobStore) -> list[JobRecord]:
    """Return all jobs, whatever became of them."""
    ids: list[Any] = [job_id for status in JobStatus for job_id in records.zrange(index(EVERYWHERE, status), 0, -1)]
    return [job for job_id in ids if (job := run(records, store.get(JobId(job_id))))]


def tally(
    accepted: Iterable[JobId], jobs: list[JobRecord], told: Counter[str], objects: ObjectStore, spent: int
) -> Tally:
    """Count.

    Args:
        accepted: What clients were told of.
        jobs: All records.
        told: How many completion entries each job has.
        objects: Where the variations are.
        spent: Credits that the team has less than at first.
    """
    known = set(accepted)
    ended = [job for job in jobs if job.finished]
    return Tally(
        lost=len(known - {job.id for job in jobs}),
        stuck=len(jobs) - len(ended),
        published_twice=sum(times > 1 for times in told.values()),
        untold=sum(not told[job.id] for job in ended),
        unreadable=sum(not all(_readable(variation, objects) for variation in job.variations) for job in ended),
        made_twice=len({job.id for job in jobs} - known),
        credits_missing=spent - sum(job.charged if job.finished else job.price for job in jobs),
        ends=Counter(job.status for job in jobs),
    )


def _readable(variation: Variation, objects: ObjectStore) -> bool:
    """Say whether the object is the picture that the paced model made for it."""
    try:
        with Image.open(BytesIO(objects.get(variation.key))) as picture:
            return seed_of(picture) == variation.seed % 256
    except (NotFound, OSError):
        return False
