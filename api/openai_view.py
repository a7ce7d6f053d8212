"""Records as OpenAI's clients read them."""

import base64
from datetime import timedelta
from functools import partial
from typing import Any, Final

from api.services import Services
from shared.errors import Canceled, ContentFlagged, JobError, NotFound, SourceUnusable, StillRunning
from shared.jobs import JobRecord, JobStatus, Variation

LINK: Final = timedelta(minutes=60)  #: how long a link works
FAILURES: Final = {kind.code: kind for kind in (Canceled, ContentFlagged, SourceUnusable)}


def require_success(record: JobRecord) -> None:
    """Go on if there are variations.

    Raises:
        StillRunning: If the job has not ended.
        NotFound: If its owner had its variations deleted.
        JobError: If it failed.
    """
    if not record.finished:
        raise StillRunning
    if record.erased_at:
        raise NotFound(f"the variations of job {record.id} were deleted")
    if record.status is not JobStatus.SUCCEEDED:
        failure = record.failure
        raise FAILURES.get(failure.code, JobError)(failure.message) if failure else JobError


async def images_answer(services: Services, record: JobRecord, response_format: str) -> dict[str, Any]:
    """Return ``{"created", "data"}`` of a job that has succeeded.

    Raises:
        NotFound, StorageUnavailable: If a variation cannot be read.
    """
    show = _as_base64 if response_format == "b64_json" else _as_link
    data = [{"revised_prompt": None} | await show(services, variation) for variation in record.variations]
    return {"created": int(record.created_at.timestamp()), "data": data}


async def _as_base64(services: Services, variation: Variation) -> dict[str, str]:
    content = await services.in_thread(partial(services.objects.get, variation.key))
    return {"b64_json": base64.b64encode(content).decode()}


async def _as_link(services: Services, variation: Variation) -> dict[str, str]:
    return {"url": services.objects.sign(variation.key, LINK)}
