"""Signs that the parts of the stack are ready."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpx

from reduxq.local.parts import Plan
from shared.connections import connect, run
from shared.errors import RecordsUnavailable
from shared.presence import leader

TIMEOUT: Final = 2.0  #: seconds for one question


def records(plan: Plan) -> bool:
    """Whether the records server answers, without which no other part starts."""
    with connect(plan.redis_url(0)) as client, suppress(RecordsUnavailable):
        run(client, leader())
        return True
    return False


def services(plan: Plan) -> dict[str, Callable[[], bool]]:
    """Return the signs that a job would be accepted, run and watched, by the name of the part that is asked."""
    return {
        "api": lambda: _health(plan).get("status") == "ok",  # with records and storage
        "dispatcher": lambda: bool(_health(plan).get("dispatcher")),
        "worker": lambda: _health(plan).get("workers", 0) >= plan.workers,
        "flower": lambda: _get(f"{plan.url('flower')}/healthcheck") is not None,
    }


def _health(plan: Plan) -> dict[str, Any]:
    answer = _get(f"{plan.url('api')}/readyz")
    return answer.json() if answer else {}


def _get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=TIMEOUT, trust_env=False)  # a proxy has no business on loopback
    except httpx.TransportError:
        return None
