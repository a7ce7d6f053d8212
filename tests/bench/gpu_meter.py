"""Time and memory of a call, on a GPU by its own events, on a CPU by the clock."""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

CALLS: Final = (4, 40)  #: measured calls of one point: at least, at most
WARM: Final = 2  #: calls after the first, which compiles, that are not measured
GIB: Final = 2**30


class Deadline:
    """A time to be kept, so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds until then, below zero after it."""
        return self._at - time.monotonic()


class Pace(NamedTuple):
    """How long a call takes, in milliseconds."""

    median: float
    low: float
    high: float
    calls: int
    first: float  #: until the first call was done, with whatever it compiles
    peak_gib: float | None  #: device memory that the calls took besides what was there before; None on a CPU


def measure(start: Callable[[], Callable[[], Tensor]], device: torch.device, seconds: float) -> tuple[Pace, Tensor]:
    """Call again and again for about so many seconds, one call right behind the other as an engine does.

    Args:
        start: Returns what is called; its time and memory are the first call's, for it may compile and capture.
        device: On which that computes.
        seconds: That the measured calls take.

    Returns:
        How long it takes, and what it returned the first time.
    """
    before = _reset(device)
    began = time.perf_counter()
    call = start()
    result = call().clone()
    wait(device)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(WARM):
        call()
    wait(device)
    each = max((time.perf_counter() - began) / WARM, 1e-6)
    count = min(max(round(seconds / each), CALLS[0]), CALLS[1])
    took = (_by_events if device.type == "cuda" else _by_clock)(call, count)
    peak = (torch.cuda.max_memory_allocated(device) - before) / GIB if device.type == "cuda" else None
    return Pace(statistics.median(took), min(took), max(took), count, 1e3 * first, peak), result


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what nobody refers to any more, compiled code included."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # a context that a kernel broke: whoever uses it next will tell
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()


def _reset(device: torch.device) -> int:
    """Return the bytes in use, from which on the peak counts."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _by_events(call: Callable[[], object], count: int) -> list[float]:
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return [begin.elapsed_time(end) for begin, end in pairwise(marks)]


def _by_clock(call: Callable[[], object], count: int) -> list[float]:
    marks = [time.perf_counter()]
    for _ in range(count):
        call()
        marks.append(time.perf_counter())
    return [1e3 * (end - begin) for begin, end in pairwise(marks)]
