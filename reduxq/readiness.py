"""Signs that the parts of the stack are ready."""

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, TypeVar

import httpx

from reduxq.parts import Plan, worker_names
from shared.dispatch_store import living_workers
from shared.errors import RecordsUnavailable
from shared.programs import Program, connect, run

T = TypeVar("T")
TIMEOUT: Final = 2.0  #: seconds for one question

Signs = dict[str, Callable[[], bool]]  #: by the name of the part that is asked


def servers(plan: Plan) -> Signs:
    """Return the signs of what everything else stands on."""
    return {
        "redis": lambda: _ask(plan, living_workers()) is not None,
        "s3": lambda: _get(plan.url("s3")) is not None,
    }


def services(plan: Plan) -> Signs:
    """Return the signs that a job would be accepted, run and watched."""
    return {
        "api": lambda: _health(plan).get("status") == "ok",
        "dispatcher": lambda: bool(_health(plan).get("dispatcher")),
        "worker": lambda: set(worker_names(plan)) <= set(_ask(plan, living_workers()) or ()),
        "flower": lambda: _get(f"{plan.url('flower')}/healthcheck") is not None,
    }


def _ask(plan: Plan, program: Program[T]) -> T | None:
    with connect(plan.redis_url(0)) as records, suppress(RecordsUnavailable):
        return run(records, program)
    return None


def _health(plan: Plan) -> dict[str, Any]:
    answer = _get(f"{plan.url('api')}/healthz")
    return answer.json() if answer and answer.status_code == HTTPStatus.OK else {}


def _get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=TIMEOUT, trust_env=False)  # a proxy has no business on loopback
    except httpx.TransportError:
        return None
