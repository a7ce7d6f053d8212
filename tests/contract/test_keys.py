from datetime import UTC, datetime, timedelta
from time import sleep

import pytest
import redis

from shared.connections import run
from shared.errors import InvalidRequest, NotFound, Unauthorized
from shared.ids import KeyId
from shared.keys import check_key, create_key, list_keys, revoke_key, rotate_key

SOON = timedelta(seconds=0.4)


def key_id(text: str) -> KeyId:
    return KeyId(text.split("_")[1])


def opens(records: redis.Redis, text: str) -> bool:
    try:
        run(records, check_key(text))
    except Unauthorized:
        return False
    return True


def test_a_key_opens_for_its_team_and_user_until_it_is_revoked(records: redis.Redis) -> None:
    text = run(records, create_key("lab", "Ada"))
    key = run(records, check_key(text))
    assert (key.team_name, key.user_name) == ("lab", "Ada")
    run(records, revoke_key(key.id))
    (listed,) = run(records, list_keys())
    run(records, revoke_key(key.id))
    with pytest.raises(Unauthorized):
        run(records, check_key(text))
    assert run(records, list_keys()) == [listed]  # revoked when it was first revoked
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


def test_an_unknown_key_cannot_be_revoked_or_rotated(records: redis.Redis) -> None:
    with pytest.raises(NotFound, match="there is no key nothing"):
        run(records, revoke_key("nothing"))
    with pytest.raises(NotFound, match="there is no key nothing"):
        run(records, rotate_key("nothing", overlap=SOON))
    assert run(records, list_keys()) == []


def test_a_key_opens_until_it_expires(records: redis.Redis) -> None:
    text = run(records, create_key("lab", "Ada", lasts=SOON))
    assert opens(records, text)
    sleep(0.5)
    assert not opens(records, text)
    assert not opens(records, run(records, create_key("lab", "Ada", lasts=timedelta(0))))


def test_a_rotated_key_and_its_successor_both_open_until_the_overlap_ends(records: redis.Redis) -> None:
    old = run(records, create_key("lab", "Ada"))
    new = run(records, rotate_key(key_id(old), overlap=SOON))
    before, after = (run(records, check_key(text)) for text in (old, new))
    assert (before.team_id, before.user_id) == (after.team_id, after.user_id)
    assert before.id != after.id
    assert after.expires_at is None
    sleep(0.5)
    assert not opens(records, old)
    assert opens(records, new)


def test_without_an_overlap_the_old_key_ends_at_once(records: redis.Redis) -> None:
    old = run(records, create_key("lab", "Ada"))
    new = run(records, rotate_key(key_id(old), overlap=timedelta(0), lasts=SOON))
    assert not opens(records, old)
    assert opens(records, new)
    sleep(0.5)
    assert not opens(records, new)


def test_an_overlap_does_not_prolong_a_key_that_expires_sooner(records: redis.Redis) -> None:
    old = run(records, create_key("lab", "Ada", lasts=SOON))
    expires_at = run(records, check_key(old)).expires_at
    run(records, rotate_key(key_id(old), overlap=timedelta(hours=1)))
    assert run(records, check_key(old)).expires_at == expires_at


def test_a_key_that_has_ended_cannot_be_rotated(records: redis.Redis) -> None:
    revoked = key_id(run(records, create_key("lab", "Ada")))
    run(records, revoke_key(revoked))
    expired = key_id(run(records, create_key("lab", "Ada", lasts=timedelta(0))))
    for ended in (revoked, expired):
        with pytest.raises(InvalidRequest, match=f"the key {ended} was revoked or has expired"):
            run(records, rotate_key(ended, overlap=SOON))
    assert len(run(records, list_keys())) == 2
