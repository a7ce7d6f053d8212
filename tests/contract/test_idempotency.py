from datetime import timedelta

import pytest
import redis

from shared import assets
from shared.assets import Asset
from shared.connections import run
from shared.errors import IdempotencyKeyReused, InsufficientCredits
from shared.idempotency import Once, fingerprint, keyed, retried
from shared.ids import AssetKey, KeyId, TeamId, UserId
from shared.job_store import JobStore
from shared.teams import get_team
from tests.queues import queued_jobs
from tests.samples import NOW, PRICE, fund, record
from tests.together import run_together

STORE = JobStore(timedelta(seconds=9))
TEAM, OTHER = TeamId("team"), TeamId("other")
ASKED = fingerprint({"seed": 7, "imageUrl": "images/cat.png"})


def spent(records: redis.Redis) -> int:
    return 1_000_000 - run(records, get_team(TEAM)).credit


def asset(name: str) -> Asset:
    key = AssetKey(f"images/{name}.png")
    return Asset(key=key, team_id=TEAM, user_id=UserId("user"), content_type="image/png", size_bytes=9, created_at=NOW)


def test_a_fingerprint_is_of_what_is_asked_not_of_how_it_is_written() -> None:
    assert fingerprint({"imageUrl": "images/cat.png", "seed": 7}) == ASKED
    assert fingerprint({"imageUrl": "images/cat.png", "seed": 8}) != ASKED


def test_the_same_request_with_the_same_key_is_one_job_and_paid_once(records: redis.Redis) -> None:
    once, first = keyed(TEAM, "order 5", ASKED), record()
    assert {run(records, STORE.accept(job, once=once)) for job in (first, record(), record())} == {first.id}
    assert run(records, queued_jobs()) == [first.id]
    assert spent(records) == PRICE


def test_another_request_with_the_same_key_is_refused(records: redis.Redis) -> None:
    first = record()
    run(records, STORE.accept(first, once=keyed(TEAM, "order 5", ASKED)))
    with pytest.raises(IdempotencyKeyReused):
        run(records, STORE.accept(record(), once=keyed(TEAM, "order 5", fingerprint("something else"))))
    assert run(records, queued_jobs()) == [first.id]
    assert spent(records) == PRICE


@pytest.mark.parametrize("other", [keyed(TEAM, "order 6", ASKED), keyed(OTHER, "order 5", ASKED), None])
def test_another_key_another_teams_key_and_no_key_make_a_job_of_their_own(
    records: redis.Redis, other: Once | None
) -> None:
    first, second = record(), record()
    run(records, STORE.accept(first, once=keyed(TEAM, "order 5", ASKED)))
    assert run(records, STORE.accept(second, once=other)) == second.id
    assert spent(records) == 2 * PRICE


def test_a_request_that_was_refused_may_be_sent_again(records: redis.Redis) -> None:
    once, job = keyed(TEAM, "order 5", ASKED), record()
    fund(records, team_credit=PRICE - 1)
    with pytest.raises(InsufficientCredits):
        run(records, STORE.accept(record(), once=once))
    fund(records)
    assert run(records, STORE.accept(job, once=once)) == job.id


def test_a_repeat_is_found_even_when_the_team_could_not_pay_again(records: redis.Redis) -> None:
    once, first = keyed(TEAM, "order 5", ASKED), record()
    fund(records, team_credit=PRICE)
    assert {run(records, STORE.accept(job, most_open=1, once=once)) for job in (first, record())} == {first.id}


def test_of_twenty_twins_at_the_same_time_one_becomes_a_job(records: redis.Redis, valkey: str) -> None:
    once = keyed(TEAM, "order 5", ASKED)
    found = run_together(valkey, (STORE.accept(record(), once=once) for _ in range(20)))
    assert [*set(found)] == run(records, queued_jobs())
    assert len(set(found)) == 1
    assert spent(records) == PRICE


def test_a_retry_finds_its_job_and_a_new_request_takes_its_place(records: redis.Redis) -> None:
    again, anew = (retried(KeyId("one"), ASKED, retry=retry) for retry in (True, False))
    first, second, third = record(), record(), record()
    assert run(records, STORE.accept(first, once=anew)) == first.id
    assert run(records, STORE.accept(third, once=again)) == first.id
    assert run(records, STORE.accept(second, once=anew)) == second.id
    assert run(records, STORE.accept(third, once=again)) == second.id
    assert run(records, STORE.accept(third, once=retried(KeyId("two"), ASKED, retry=True))) == third.id
    assert spent(records) == 3 * PRICE


def test_a_retry_of_what_never_arrived_is_a_job_that_later_retries_find(records: redis.Redis, valkey: str) -> None:
    again = retried(KeyId("one"), ASKED, retry=True)
    found = run_together(valkey, (STORE.accept(record(), once=again) for _ in range(20)))
    assert len(set(found)) == 1
    assert spent(records) == PRICE


def key_of(reserved: Asset | None) -> AssetKey | None:
    return reserved.key if reserved else None


def test_the_same_upload_with_the_same_key_is_one_asset(records: redis.Redis) -> None:
    once = keyed(TEAM, "upload 5", ASKED)
    cat, dog = asset("cat"), asset("dog")
    assert key_of(run(records, assets.reserve(cat, once))) == cat.key
    assert key_of(run(records, assets.reserve(dog, once))) == cat.key
    with pytest.raises(IdempotencyKeyReused):
        run(records, assets.reserve(dog, keyed(TEAM, "upload 5", fingerprint("another picture"))))
    assert key_of(run(records, assets.reserve(dog))) == dog.key


def test_an_upload_that_is_no_retry_takes_a_key_of_its_own(records: redis.Redis) -> None:
    again, anew = (retried(KeyId("one"), ASKED, retry=retry) for retry in (True, False))
    cat, dog, fox = asset("cat"), asset("dog"), asset("fox")
    assert key_of(run(records, assets.reserve(cat, anew))) == cat.key
    assert key_of(run(records, assets.reserve(dog, anew))) == dog.key
    assert key_of(run(records, assets.reserve(fox, again))) == dog.key


def test_a_key_that_is_taken_is_not_remembered_as_the_requests_own(records: redis.Redis) -> None:
    once, cat, dog = keyed(TEAM, "upload 5", ASKED), asset("cat"), asset("dog")
    run(records, assets.reserve(cat))
    assert run(records, assets.reserve(cat, once)) is None
    assert key_of(run(records, assets.reserve(dog, once))) == dog.key


def test_of_twenty_twins_of_an_upload_one_takes_a_key(records: redis.Redis, valkey: str) -> None:
    once = keyed(TEAM, "upload 5", ASKED)
    found = run_together(valkey, (assets.reserve(asset(f"cat-{number}"), once) for number in range(20)))
    assert len({key_of(reserved) for reserved in found}) == 1
    assert len(list(records.scan_iter("asset:*"))) == 1
