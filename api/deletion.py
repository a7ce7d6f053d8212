"""How pictures leave."""

from contextlib import suppress
from functools import partial

from api.services import Services
from api.submission import report
from shared import assets, transitions
from shared.assets import Asset
from shared.errors import InvalidRequest, NotFound, StorageUnavailable
from shared.ids import AssetKey, JobId
from shared.keys import ApiKey


async def delete_asset(services: Services, caller: ApiKey, key: AssetKey) -> Asset:
    """Delete an uploaded image and return its tombstone; a job that still needs it will fail.

    Raises:
        NotFound: If there is none; another team's is told as one that does not exist.
        InvalidRequest: If it is a variation, which leaves with its job's result.
        StorageUnavailable, RecordsUnavailable: If a server does not answer; the same request finishes the work.
    """
    asset = await services.run(assets.find(key, caller.team_id))
    if asset is None:
        raise NotFound(f"there is no image {key!r}")
    if asset.job_id:
        raise InvalidRequest.of("key", f"is a variation; DELETE /api/results/{asset.job_id} deletes it", key)
    await services.in_thread(partial(services.objects.delete, key))
    return await services.run(assets.bury(asset, services.clock.now()))


async def delete_result(services: Services, caller: ApiKey, job_id: JobId) -> None:
    """Delete a job's variations and leave a tombstone; a job that has not ended is canceled.

    Raises:
        NotFound: If there is none; another team's is told as one that does not exist.
        RecordsUnavailable: If the records server does not answer; the same request finishes the work.
    """
    await report(services, caller, job_id)
    now = services.clock.now()
    ended = await services.run(services.jobs.update(job_id, partial(transitions.cancel, now=now)))
    await services.run(services.jobs.update(job_id, partial(transitions.erase, now=now)))
    own = (ended.parameters.source,) if ended.owns_source else ()
    with suppress(StorageUnavailable):  # what is left, or being stored at this moment, is the sweeper's
        for key in sorted({*ended.planned_keys, *own} - {""}):
            await services.in_thread(partial(services.objects.delete, key))
