from datetime import UTC, datetime

import pytest
import redis

from shared.errors import Unauthorized
from shared.keys import check_key, create_key, list_keys, revoke_key
from shared.programs import run


def test_a_key_opens_for_its_team_and_user_until_it_is_revoked(records: redis.Redis) -> None:
    text = run(records, create_key("lab", "Ada"))
    key = run(records, check_key(text))
    assert (key.team_name, key.user_name) == ("lab", "Ada")
    assert run(records, revoke_key(key.id))
    assert run(records, revoke_key(key.id))
    with pytest.raises(Unauthorized):
        run(records, check_key(text))
    (listed,) = run(records, list_keys())
    assert listed.revoked_at is not None
    assert listed.revoked_at <= datetime.now(UTC)


def test_a_second_key_of_the_same_names_is_the_same_user(records: redis.Redis) -> None:
    first, second = (run(records, check_key(run(records, create_key("lab", "Ada")))) for _ in range(2))
    other = run(records, check_key(run(records, create_key("shop", "Ada"))))
    assert first.id != second.id
    assert (first.team_id, first.user_id) == (second.team_id, second.user_id)
    assert first.team_id != other.team_id
    assert first.user_id != other.user_id


def test_only_the_exact_text_opens(records: redis.Redis) -> None:
    text = run(records, create_key("lab", "Ada"))
    head, _, secret = text.rpartition("_")
    other = run(records, create_key("lab", "Bob"))
    for wrong in ("", "rq", text[:-1], text + "0", text.upper(), f"{head}_{other.rpartition('_')[2]}", secret, "é_ü_ß"):
        with pytest.raises(Unauthorized):
            run(records, check_key(wrong))


def test_the_secret_is_not_stored(records: redis.Redis) -> None:
    text = run(records, create_key("lab", "Ada"))
    secret = text.rpartition("_")[2]
    stored: list[str] = records.keys("*")  # type: ignore[assignment]
    strings = [records.get(name) for name in stored if records.type(name) == "string"]
    assert strings
    assert not any(secret in str(value) for value in strings)


def test_revoking_an_unknown_key_says_so(records: redis.Redis) -> None:
    assert not run(records, revoke_key("nothing"))
