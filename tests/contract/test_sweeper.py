"""What the sweeper deletes, and what it leaves alone; on a real Valkey and a real bucket."""

from datetime import timedelta
from functools import partial

import pytest
import redis

from api.sweeper import Sweeper
from shared import assets
from shared.assets import Asset
from shared.clock import Clock
from shared.connections import run
from shared.errors import IllegalTransition, Misconfigured, NotFound
from shared.idempotency import keyed
from shared.ids import AssetKey, TeamId, UserId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.object_store import ObjectStore
from shared.settings import Settings
from shared.transitions import cancel, claim, fail_attempt, finish
from tests.samples import MODEL, NOW, record, start, variations_of

STORE = JobStore(timedelta(seconds=6))
SETTINGS = Settings()


class Later(Clock):
    """Stands still at some time after :data:`NOW`."""

    def __init__(self, **after: float) -> None:
        self.at = NOW + timedelta(**after)

    def now(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return self.at


def sweep(records: redis.Redis, objects: ObjectStore, **after: float) -> None:
    Sweeper(SETTINGS, records, objects, Later(**after)).round()


def is_there(objects: ObjectStore, key: AssetKey) -> bool:
    try:
        objects.get(key)
    except NotFound:
        return False
    return True


@pytest.fixture
def twice_tried(records: redis.Redis, objects: ObjectStore) -> tuple[AssetKey, JobRecord]:
    """A job whose first attempt left an object behind, and whose second succeeded."""
    job = record()
    run(records, STORE.accept(job))
    lost = run(records, STORE.update(job.id, start))
    run(records, STORE.update(job.id, partial(fail_attempt, attempt=1, reason="silent", limit=3, now=NOW)))
    again = run(records, STORE.update(job.id, start))
    for key in (*lost.planned_keys, *again.planned_keys):
        objects.put(key, b"picture", "image/webp")
    done = partial(finish, attempt=2, variations=variations_of(again), model=MODEL, timings={}, now=NOW)
    return lost.planned_keys[0], run(records, STORE.update(job.id, done))


def test_what_a_lost_attempt_left_is_deleted_once_it_cannot_be_writing_any_more(
    records: redis.Redis, objects: ObjectStore, twice_tried: tuple[AssetKey, JobRecord]
) -> None:
    left, job = twice_tried
    sweep(records, objects, minutes=9)
    assert is_there(objects, left)
    sweep(records, objects, minutes=11)
    assert not is_there(objects, left)
    assert is_there(objects, job.variations[0].key)
    assert run(records, STORE.get(job.id)) == job
    assert run(records, assets.orphaned(NOW + timedelta(days=1), 9)) == []


def test_images_leave_after_their_time_and_the_record_says_so(
    records: redis.Redis, objects: ObjectStore, twice_tried: tuple[AssetKey, JobRecord]
) -> None:
    _, job = twice_tried
    sweep(records, objects, days=29)
    assert run(records, STORE.get(job.id)) == job
    sweep(records, objects, days=31)
    sweep(records, objects, days=31, minutes=11)
    assert not is_there(objects, job.variations[0].key)
    left = run(records, STORE.get(job.id))
    assert left is not None
    assert (left.status, left.variations, left.charged) == (JobStatus.SUCCEEDED, (), job.charged)
    assert left.erased_at == NOW + timedelta(days=31)
    assert records.keys("asset:*") == []


def test_records_leave_after_their_time_with_everything_that_is_known_of_them(
    records: redis.Redis, objects: ObjectStore, twice_tried: tuple[AssetKey, JobRecord]
) -> None:
    _, job = twice_tried
    waiting = record()
    run(records, STORE.accept(waiting))
    sweep(records, objects, days=91)
    sweep(records, objects, days=91, minutes=11)
    assert run(records, STORE.get(job.id)) is None
    assert not is_there(objects, job.variations[0].key)
    assert run(records, STORE.page("jobs", [JobStatus.SUCCEEDED], limit=9)) == ([], None)
    assert run(records, STORE.get(waiting.id)) == waiting  # however old, it has not ended


def test_an_upload_that_never_ended_gives_its_key_back(records: redis.Redis, objects: ObjectStore) -> None:
    begun, ended = (
        Asset(
            key=AssetKey(f"images/{name}.png"),
            team_id=TeamId("team"),
            user_id=UserId("user"),
            content_type="image/png",
            size_bytes=5,
            created_at=NOW,
        )
        for name in ("begun", "ended")
    )
    for upload in (begun, ended):
        assert run(records, assets.reserve(upload))
        objects.put(upload.key, b"bytes", "image/png")
    assert run(records, assets.confirm(ended, ended.model_copy(update={"stored": True})))
    sweep(records, objects, minutes=59)
    assert records.exists(f"asset:{begun.key}")
    sweep(records, objects, minutes=61)
    assert not records.exists(f"asset:{begun.key}")
    sweep(records, objects, minutes=72)
    assert not is_there(objects, begun.key)
    assert is_there(objects, ended.key)
    assert run(records, assets.find(ended.key, ended.team_id))


def test_what_cannot_be_read_keeps_nothing_else_from_leaving(
    records: redis.Redis, objects: ObjectStore, twice_tried: tuple[AssetKey, JobRecord]
) -> None:
    _, job = twice_tried
    odd = record(created_at=NOW - timedelta(days=1))
    run(records, STORE.accept(odd))
    run(records, STORE.update(odd.id, partial(cancel, now=NOW)))
    records.hset(f"job:{odd.id}", "record", '{"schema": 99}')
    records.zadd(assets.STORED, {"images/odd.png": 1, "images/gone.png": 1})
    records.set("asset:images/odd.png", "{}")
    sweep(records, objects, days=91)
    assert run(records, STORE.get(job.id)) is None
    assert records.zcard(assets.STORED) == 0


def test_more_than_a_round_takes_in_hand_is_known_to_be_more(records: redis.Redis, objects: ObjectStore) -> None:
    for number in range(150):
        records.zadd(assets.ORPHANED, {f"images/{number}.webp": NOW.timestamp()})
    sweeper = Sweeper(SETTINGS, records, objects, Later(days=1))
    assert sweeper.round()
    assert not sweeper.round()
    assert records.zcard(assets.ORPHANED) == 0


def test_a_retried_upload_is_not_swept_with_what_its_first_try_left(records: redis.Redis, objects: ObjectStore) -> None:
    once = keyed(TeamId("team"), "key", "asked")
    upload = Asset(
        key=AssetKey("images/first.png"),
        team_id=TeamId("team"),
        user_id=UserId("user"),
        content_type="image/png",
        size_bytes=5,
        created_at=NOW,
    )
    assert run(records, assets.reserve(upload, once))  # and its process dies
    sweep(records, objects, hours=2)
    later = upload.model_copy(update={"key": AssetKey("images/second.png"), "created_at": NOW + timedelta(hours=2)})
    taken = run(records, assets.reserve(later, once))
    assert taken == later
    objects.put(taken.key, b"bytes", "image/png")
    assert run(records, assets.confirm(taken, taken.model_copy(update={"stored": True})))
    sweep(records, objects, hours=3)
    assert is_there(objects, taken.key)


def test_no_attempt_plans_to_write_where_another_writes(records: redis.Redis) -> None:
    first, second = record(), record()
    for job in (first, second):
        run(records, STORE.accept(job))
    same = partial(claim, now=NOW, prefix="", digits=(1, 2, 3, 4))
    running = run(records, STORE.update(first.id, same))
    assert run(records, STORE.update(first.id, same)) == running  # sent again
    with pytest.raises(IllegalTransition, match="another object"):
        run(records, STORE.update(second.id, same))
    upload = Asset(
        key=running.planned_keys[0],
        team_id=TeamId("other"),
        user_id=UserId("user"),
        content_type="image/webp",
        size_bytes=5,
        created_at=NOW,
    )
    assert run(records, assets.reserve(upload)) is None
    run(records, STORE.update(first.id, partial(cancel, now=NOW)))
    assert run(records, assets.reserve(upload)) is None  # it may be writing still
    assert records.zcard(assets.PLANNED) == 0


class Locked(ObjectStore):
    """A bucket some of whose objects cannot be deleted, as a lock or a policy has it."""

    def __init__(self, objects: ObjectStore, locked: set[AssetKey]) -> None:
        self._objects, self._locked = objects, locked

    def delete(self, key: AssetKey) -> None:
        if key in self._locked:
            raise Misconfigured("the object storage refuses us")
        self._objects.delete(key)


def test_objects_that_cannot_be_deleted_keep_nothing_else_from_leaving(
    records: redis.Redis, objects: ObjectStore, twice_tried: tuple[AssetKey, JobRecord]
) -> None:
    left, job = twice_tried
    locked = {AssetKey(f"images/locked{number:03}.webp") for number in range(100)}
    for key in locked:
        records.zadd(assets.ORPHANED, {key: NOW.timestamp() - 1})
    sweeper = Sweeper(SETTINGS, records, Locked(objects, locked), Later(days=91))
    sweeper.round()
    assert run(records, STORE.get(job.id)) is None
    assert is_there(objects, left)
    sweeper.round()
    assert not is_there(objects, left)
    assert set(run(records, assets.orphaned(NOW + timedelta(days=91), 200))) == {*locked, job.variations[0].key}
