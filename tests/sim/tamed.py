"""The few things outside our code that chance or an event loop has a hand in, for the time of a simulation."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import structlog

from api import sources, uploads


@contextmanager
def tamed(chosen: random.Random) -> Iterator[None]:
    """Let all randomness of the code come from ``chosen``, and nothing be logged: what happens stands in the trace.

    ``uuid4``, ``secrets`` and ``SystemRandom`` all ask the operating system, at these two names. anyio's scopes shield
    from cancellation by an event loop, and there is none.
    """
    unshielded: Callable[..., Any] = lambda **_: nullcontext()  # noqa: E731
    with (
        _silence(),
        patch.object(os, "urandom", chosen.randbytes),
        patch.object(random, "_urandom", chosen.randbytes),
        patch.object(sources, "CancelScope", unshielded),
        patch.object(uploads, "CancelScope", unshielded),
    ):
        yield


@contextmanager
def _silence() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        structlog.configure(**before)
