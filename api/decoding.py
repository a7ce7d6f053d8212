"""Strangers' images, decoded in processes apart: a crash, a hang or a bomb ends one upload and nothing else."""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Final

import structlog
from anyio import BrokenWorkerProcess, fail_after, to_process

from shared.errors import BrokenImage, Unavailable
from shared.images import ImageType, inspect

log = structlog.get_logger(__name__)

CPU_SECONDS: Final = 10  #: that decoding may take; 64 million pixels of progressive JPEG take one
PATIENCE: Final = 40  #: seconds in all, on a machine however busy
BYTES_PER_PIXEL: Final = 20  #: address space that decoding takes; measured: JPEG 4 to 12, PNG 4, WebP 16 to 18
COPIES: Final = 4  #: of a file that are in memory while it is decoded
BASE_BYTES: Final = 256 * 2**20  #: address space of the interpreter with Pillow; measured: 60 MB


async def inspect_apart(data: bytes, *, max_pixels: int) -> ImageType:
    """Return what type of image a file is, having decoded it whole in another process.

    Processes are kept for the images that follow; there are never more than cores.

    Raises:
        UnsupportedImage: If it is none of the types that are taken.
        BrokenImage: If it has too many pixels, is truncated, cannot be decoded, or its decoding does not end.
        Unavailable: If the machine is too busy.
    """
    memory = most_memory(len(data), max_pixels)
    call = partial(_inspect, data, max_pixels, cpu_seconds=CPU_SECONDS, memory=memory)
    try:
        with fail_after(PATIENCE):
            return await to_process.run_sync(call, cancellable=True)
    except TimeoutError as error:
        raise Unavailable(f"the image was not decoded within {PATIENCE} s") from error
    except BrokenWorkerProcess as error:
        log.warning("a decoding process died", cause=repr(error.__cause__))
        what = f"the image cannot be decoded: the decoder crashed, or worked on it for longer than {CPU_SECONDS} s"
        raise BrokenImage(what) from error


def most_memory(size_bytes: int, max_pixels: int) -> int:
    """Return the bytes of address space that decoding a file may take."""
    return BASE_BYTES + COPIES * size_bytes + BYTES_PER_PIXEL * max_pixels


def _inspect(data: bytes, max_pixels: int, *, cpu_seconds: float, memory: int) -> ImageType:
    for asking in (signal.SIGINT, signal.SIGTERM):  # a terminal's or a service manager's, for the API to answer
        signal.signal(asking, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # ends the process; on a busy machine only its own work counts
    signal.alarm(PATIENCE)  # and this one that hangs after its API was killed
    try:
        with _address_space(memory):
            return inspect(BytesIO(data), max_pixels=max_pixels)
    except MemoryError as error:
        raise BrokenImage("the image needs too much memory to decode") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


@contextmanager
def _address_space(limit: int) -> Iterator[None]:
    """Limit the process's memory in bytes, where the system can; the next file is read without a limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = before[1]
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
