"""Webhooks as https://www.standardwebhooks.com has them: message ids, signatures, and when to call again.

Signing is HMAC and so done here; the library of the standard's makers checks it in the tests.
"""

import hmac
import secrets
from base64 import b64decode, b64encode
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from shared.jobs import Delivery

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32  #: the standard asks for 24 to 64
#: Before each call after the first; the last one is made a day after the first.
WAITS: Final = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=3),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=8),
    timedelta(hours=12),
)


def new_secret() -> str:
    """Draw what a team's webhooks are signed with."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(subject: str, delivery: Delivery) -> str:
    """Return what a message is called in every call, so that its receiver knows it again."""
    return f"msg_{subject}_{delivery.event.name.lower()}_{int(delivery.at.timestamp() * 1000)}"


def sign(secret: str, name: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a message.

    Args:
        secret: As :func:`new_secret` draws it.
        name: The message's :func:`message_id`.
        at: When this call is made; receivers refuse what is some minutes old.
        body: As it is sent.
    """
    stamp = str(int(at.timestamp()))
    signed = f"{name}.{stamp}.".encode() + body
    code = hmac.digest(b64decode(secret.removeprefix(PREFIX)), signed, "sha256")
    signature = f"v1,{b64encode(code).decode()}"
    return {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}


def wait_after(calls: int, status: int | None) -> timedelta | None:
    """Return how long to wait after this many calls, the last of which was answered so; None: it was the last.

    Args:
        calls: 1 or more.
        status: HTTP's; None if there was no answer.
    """
    if status == HTTPStatus.GONE or calls > len(WAITS):  # 410: the receiver wants no more
        return None
    return WAITS[calls - 1]
