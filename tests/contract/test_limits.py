import time
from zlib import crc32

import pytest
import redis

from shared.connections import run
from shared.errors import TooManyRequests, Unauthorized
from shared.ids import KeyId
from shared.keys import ApiKey, check_key, create_key, revoke_key
from shared.limits import REMEMBERED, Rate, admit
from shared.programs import Program, commit
from tests.together import run_together

KEY, OTHER = KeyId("one"), KeyId("two")


def count_request(key_id: KeyId, most: int) -> Program[None]:
    """Count a request as the commit does that makes its job."""
    rate = Rate(key_id, most)
    if not (yield from commit([rate.kept], rate.one_more)):
        raise (yield from rate.refusal())


def test_the_request_after_the_most_that_are_allowed_is_refused_and_another_keys_is_not(records: redis.Redis) -> None:
    for _ in range(180):
        run(records, count_request(KEY, 180))
    with pytest.raises(TooManyRequests, match="this key has made 180 requests within a minute") as refused:
        run(records, count_request(KEY, 180))
    assert 1 <= refused.value.retry_after <= 60
    run(records, count_request(OTHER, 180))


def test_requests_at_the_same_time_are_all_counted(records: redis.Redis, valkey: str) -> None:
    outcomes = run_together(valkey, (count_request(KEY, 30) for _ in range(40)))
    assert [type(outcome) for outcome in outcomes].count(TooManyRequests) == 10


def test_a_key_that_was_refused_may_ask_again_when_its_minute_is_over(records: redis.Redis) -> None:
    run(records, count_request(KEY, 1))
    assert records.pexpire("rate:one", 300)  # the rest of the minute
    with pytest.raises(TooManyRequests) as refused:
        run(records, count_request(KEY, 1))
    assert refused.value.retry_after == 1
    time.sleep(0.4)
    run(records, count_request(KEY, 1))
    with pytest.raises(TooManyRequests):
        run(records, count_request(KEY, 1))


def test_a_key_that_was_right_once_is_refused_as_soon_as_it_is_revoked(records: redis.Redis) -> None:
    text, known = run(records, create_key("lab", "Ada")), dict[str, ApiKey]()
    key = run(records, admit(text, 180, known))
    run(records, revoke_key(key.id))
    with pytest.raises(Unauthorized):
        run(records, admit(text, 180, known))


def test_nobody_uses_up_the_requests_of_a_key_without_its_secret(records: redis.Redis) -> None:
    text, other = (run(records, create_key("lab", name)) for name in ("Ada", "Bob"))
    known = dict[str, ApiKey]()
    key = run(records, admit(text, 180, known))
    forged = f"rq_{key.id}_{other.split('_')[2][:-8]}"
    forged += f"{crc32(forged.encode()):08x}"
    for _ in range(2):
        with pytest.raises(Unauthorized):
            run(records, admit(forged, 180, known))
    assert records.get(f"rate:{key.id}") == "1"


def test_only_so_many_keys_are_remembered(records: redis.Redis) -> None:
    first, second = (run(records, create_key("lab", name)) for name in ("Ada", "Bob"))
    known = dict.fromkeys(map(str, range(REMEMBERED)), run(records, check_key(first)))
    run(records, admit(second, 180, known))
    assert len(known) == 1
