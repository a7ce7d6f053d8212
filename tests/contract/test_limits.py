import time

import pytest
import redis

from shared.errors import TooManyRequests
from shared.ids import KeyId
from shared.limits import count_request
from shared.programs import run
from tests.together import run_together

KEY, OTHER = KeyId("one"), KeyId("two")


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
