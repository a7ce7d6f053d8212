import json
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.webhooks import new_secret, sign, wait_after

BODY = json.dumps({"type": "job.finished", "data": {"name": "Zoë"}}, ensure_ascii=False).encode()


def test_the_standards_own_library_verifies_what_we_sign() -> None:
    secret = new_secret()
    headers = sign(secret, "msg_1", datetime.now(UTC), BODY)
    assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)


@pytest.mark.parametrize(
    ("secret", "event_id", "earlier", "body"),
    [
        (new_secret(), "msg_1", 0, BODY),
        (None, "msg_2", 0, BODY),
        (None, "msg_1", 1, BODY),
        (None, "msg_1", 0, BODY + b" "),
    ],
    ids=["secret", "id", "timestamp", "body"],
)
def test_nothing_that_is_signed_can_be_changed(secret: str | None, event_id: str, earlier: int, body: bytes) -> None:
    ours = new_secret()
    headers = sign(ours, "msg_1", datetime.now(UTC), BODY)
    headers |= {"webhook-id": event_id, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - earlier)}
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(secret or ours).verify(body, headers)


def test_secrets_are_drawn() -> None:
    assert len({new_secret() for _ in range(100)}) == 100


def test_calls_grow_rarer_and_end_about_a_day_after_the_first() -> None:
    waits: list[timedelta] = []
    while wait := wait_after(len(waits) + 1, 500):
        waits.append(wait)
    assert waits == sorted(set(waits))
    assert waits[0] == timedelta(seconds=5)
    assert timedelta(hours=23) < sum(waits, timedelta()) < timedelta(hours=26)


def test_a_receiver_that_is_gone_for_good_is_not_called_again() -> None:
    assert wait_after(1, 410) is None
    assert wait_after(1, 404) is not None
    assert wait_after(1, None) is not None
