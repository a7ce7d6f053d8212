"""What must be true when everything has ended and has been swept."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

from api.batch_view import manifest_lines
from shared import batch_store
from shared.assets import STORED
from shared.backlog import WORKER_SPEED
from shared.batches import STATES, Batch, batch_place, places
from shared.connections import run
from shared.dispatch_store import SHARES
from shared.errors import Canceled, ContentFlagged, DeadlineExceeded, TooManyAttempts
from shared.ids import BatchId, JobId
from shared.job_index import BACKLOG, COMPLETIONS, DOORBELL, ROOM_WANTED, accepted_us, index, place, scopes
from shared.jobs import BatchEvent, JobRecord, WebhookEvent
from shared.webhooks import message_id
from tests.memory.clients import MemoryRedis
from tests.memory.values import SortedSet
from tests.sim.actors import Site
from tests.sim.bundles import Bundle
from tests.sim.checks import Fields
from tests.sim.clients import NAMED, Clients, Kind

#: What a job may fail of here; it is the only kind of job that may.
CAUSES = {
    Kind.HARMLESS: {TooManyAttempts.code, Canceled.code},
    Kind.POISON: {TooManyAttempts.code, Canceled.code},
    Kind.INDECENT: {TooManyAttempts.code, Canceled.code, ContentFlagged.code},
    Kind.HURRIED: {TooManyAttempts.code, Canceled.code, DeadlineExceeded.code},
}


def check_end(site: Site, clients: Clients, bundles: Mapping[int, Bundle], *, gentle: bool) -> None:
    """Compare what clients were told, what the records say, and what is in the bucket.

    Args:
        site: Everything.
        clients: All of them.
        bundles: The batches that they sent, by number.
        gentle: Whether nothing broke that may make an attempt fail.
    """
    checks, stored = site.checks, site.checks.records
    for accepted, number in clients.accepted.items():
        checks.require(accepted in stored, f"{accepted} of order {number} was accepted and is lost")
    whole = [record for record in stored.values() if record["item"] or _number(record) in clients.orders]
    checks.require(len(whole) == len(stored), "a job left its batch")
    for record in whole:
        job_id = record["id"]
        checks.require(checks.told_ends[job_id] == checks.ends[job_id] > 0, f"{job_id}: completions")
        kind = _kind(record, clients, bundles)
        failure = record["failure"]
        checks.require(failure is None or failure["code"] in CAUSES[kind], f"{job_id} ({kind}) failed: {failure}")
        if gentle:
            checks.require(not record["failed_attempts"], f"{job_id}: an attempt failed though nothing broke")
    _check_orders(site, clients)
    _check_indices(site)
    _check_batches(site, bundles)
    _check_bucket(site)
    _check_webhooks(site)


def _number(record: Fields) -> int:
    return int(record["echo"]["request_id"])


def _kind(record: Fields, clients: Clients, bundles: Mapping[int, Bundle]) -> Kind:
    item: dict[str, int] | None = record["item"]
    if item is None:
        return clients.orders[_number(record)].kind
    return bundles[_number(record)].kinds[item["line"] - 2]  # the header is line 1


def _check_batches(site: Site, bundles: Mapping[int, Bundle]) -> None:
    """Require that each batch was made once and has ended, with a manifest of what became of its items."""
    checks, direct = site.checks, MemoryRedis(site.records.execute)
    made = Counter(int(batch["request_id"]) for batch in checks.batches.values())
    checks.require(made == dict.fromkeys(bundles, 1), f"batches were made: {made}")
    for batch_id in map(BatchId, checks.batches):
        batch = run(direct, batch_store.get(batch_id))
        entries = run(direct, batch_store.entries(batch_id, STATES, limit=100, after=0))
        stored = checks.bucket.get(batch.results_key) if batch and batch.finished_at and batch.results_key else None
        expected = manifest_lines(entries, site.objects(site.network.nature))
        checks.require(stored == expected, f"batch {batch_id}: its manifest is {stored!r} instead of {expected!r}")
        checks.require(checks.told_ends[batch_id], f"batch {batch_id}: nobody heard of its end")


def _check_orders(site: Site, clients: Clients) -> None:
    """Require of each order that it made one job, if a key says that all its requests are one."""
    made: defaultdict[int, int] = defaultdict(int)
    for record in site.checks.records.values():
        if not record["item"]:
            made[_number(record)] += 1
    for number, order in clients.orders.items():
        most = made[number] if order.how == "retried" else 1
        site.checks.require(made[number] <= most, f"order {number} made {made[number]} jobs")


def _check_indices(site: Site) -> None:
    """Require of the indices that they say what each record is and when it came, and that nothing else is left."""
    expected: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for fields in site.checks.records.values():
        record = JobRecord.model_validate(fields)
        for scope in scopes(record):
            expected[index(scope, record.status)][record.id] = accepted_us(record)
    batches = {str(batch["id"]): batch for batch in site.checks.batches.values()}
    if batches:
        times = {batch_id: datetime.fromisoformat(batch["created_at"]) for batch_id, batch in batches.items()}
        expected[batch_store.ENDED] = {batch_id: at.timestamp() for batch_id, at in times.items()}
        expected["team:team:batches"] = {batch_id: int(at.timestamp() * 1e6) for batch_id, at in times.items()}
    data = {key: site.records.data[key] for key in site.records.do_keys("*")}
    expected[STORED] = data[STORED]
    found = {key: value for key, value in data.items() if isinstance(value, SortedSet) and not key.startswith("batch:")}
    site.checks.require(found == dict(expected), f"indices: {found} instead of {dict(expected)}")
    assets = {key.removeprefix("asset:") for key in data if key.startswith("asset:")}
    site.checks.require(assets == data[STORED].keys(), f"assets: {assets} instead of {data[STORED].keys()}")
    sizes = {"team": str(sum(batch["size_bytes"] for batch in batches.values()))} if batches else None
    site.checks.require(data.get(batch_store.KEPT) == sizes, f"sizes of batches: {data.get(batch_store.KEPT)}")
    known = {
        "team:team",
        "user:user",
        "workers",
        BACKLOG,
        COMPLETIONS,
        DOORBELL,
        ROOM_WANTED,
        SHARES,
        WORKER_SPEED,
        batch_store.KEPT,
    }
    known |= {*expected, *(place(JobId(job_id)) for job_id in site.checks.records), *(f"asset:{key}" for key in assets)}
    known |= {key for batch_id in map(BatchId, batches) for key in (batch_place(batch_id), *places(batch_id))}
    # Earlier requests are known for a day.
    left = sorted(
        key for key in data.keys() - known if not (key.startswith(("once:", "retry:")) and key in site.records.lapses)
    )
    site.checks.require(not left, f"nobody needs {left}")


def _check_webhooks(site: Site) -> None:
    """Require that all was heard that a webhook had to be told of."""
    records: list[JobRecord | Batch] = [JobRecord.model_validate(fields) for fields in site.checks.records.values()]
    records += [Batch.model_validate(fields) for fields in site.checks.batches.values()]
    for record in records:
        silent = [
            told.event
            for told in record.deliveries
            if not (told.delivered and message_id(record.id, told) in site.heard)
        ]
        site.checks.require(not silent, f"{record.id}: its webhook never heard of {silent}")
        expected = record.webhook and record.finished_at and not getattr(record, "erased_at", None)
        ends = (WebhookEvent.FINISHED, BatchEvent.FINISHED)
        told = any(delivery.event in ends for delivery in record.deliveries)
        site.checks.require(told or not expected, f"{record.id}: its webhook is not told")


def _check_bucket(site: Site) -> None:
    """Require that all is there that a record names, and nothing that nobody owns."""
    checks, bucket = site.checks, site.checks.bucket
    owned = {NAMED} | {key.removeprefix("asset:") for key in site.records.data if key.startswith("asset:")}
    owned |= {str(batch["results_key"]) for batch in checks.batches.values()}
    for job_id, record in checks.records.items():
        used = _used(record)
        gone = set() if job_id in checks.deleting else used - bucket.keys()
        checks.require(not gone, f"{job_id}: objects are gone: {sorted(gone)}")
        owned |= used
    left = sorted(bucket.keys() - owned)
    checks.require(not left, f"nobody owns {left}")


def _used(record: Fields) -> set[str]:
    """Return the keys of the images that a record leads to."""
    sources = set() if record["erased_at"] else {str(record["parameters"]["source"])}
    return sources | {str(variation["key"]) for variation in record["variations"]}
