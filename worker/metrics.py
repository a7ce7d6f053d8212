"""What the worker tells Prometheus."""

from collections.abc import Callable
from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Summary

from shared.sizes import Size

BUSY: Final = Counter(
    "reduxq_engine_busy_seconds", "Seconds that the device spent in calls of the model; their rate is the busy ratio"
)
CALLS: Final = Summary("reduxq_engine_call_seconds", "One denoising step of some rows", ["size", "rows"])
ROWS: Final = Histogram("reduxq_engine_call_rows", "Trajectories that shared a call", buckets=[1, 2, 4, 8, 16])
CONDITIONS: Final = Counter("reduxq_engine_conditions", "Sources that the model was shown or remembered", ["cache"])
TABLES: Final = Counter("reduxq_engine_tables", "Modulation tables from the device, the disk, or made anew", ["cache"])
JOBS: Final = Gauge("reduxq_engine_jobs", "Jobs in the engine", ["state"])
BEGUN, WAITING = JOBS.labels("begun"), JOBS.labels("waiting")
LOAD: Final = Gauge("reduxq_model_load_seconds", "Loading the model until it is warm; 0: it is not yet")
MEMORY: Final = Gauge("reduxq_device_memory_used_bytes", "Memory of the GPU in use, by whomever; 0 without a GPU")
MOST: Final = Gauge("reduxq_device_memory_bytes", "Memory of the GPU; 0 without a GPU")
ATTEMPTS: Final = Counter("reduxq_attempts", "Attempts by the status in which they left their job, or lost it", ["end"])
STALE: Final = Counter("reduxq_stale_finishes", "Attempts that came to their end when the job was no longer theirs")


def call(size: Size, rows: int, seconds: float) -> None:
    """Note a denoising step."""
    _calls(size, rows).observe(seconds)
    ROWS.observe(rows)


@cache
def _calls(size: Size, rows: int) -> Summary:
    return CALLS.labels(f"{size.width}x{size.height}", rows)  # to find it takes longer than to tell it


def jobs(*, begun: int, all_of_them: int) -> None:
    """Note how many jobs the engine has."""
    BEGUN.set(begun)
    WAITING.set(all_of_them - begun)


def loaded(seconds: float, memory: Callable[[], tuple[int, int]]) -> None:
    """Note that the model is there.

    Args:
        seconds: How long that took.
        memory: Returns the device's bytes in use and in all.
    """
    LOAD.set(seconds)
    MEMORY.set_function(lambda: memory()[0])
    MOST.set_function(lambda: memory()[1])
