"""Strangers' images, decoded in processes apart: a crash, a hang or a bomb ends one upload and nothing else."""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final

import structlog
from anyio import BrokenWorkerProcess, fail_after, to_process

from shared.errors import BrokenImage
from shared.images import ImageType, inspect

log = structlog.get_logger(__name__)

LONGEST: Final = 10  #: seconds that decoding may take; 64 million pixels of WebP take two
BYTES_PER_PIXEL: Final = 20  #: address space that decoding takes; measured: JPEG 4 to 12, PNG 4, WebP 16 to 18
COPIES: Final = 4  #: of a file that are in memory while it is decoded
BASE_BYTES: Final = 256 * 2**20  #: address space of the interpreter with Pillow; measured: 60 MB


async def inspect_apart(data: bytes, *, max_pixels: int) -> ImageType:
    """Return what type of image a file is, having decoded it whole in another process.

    Processes are kept for the images that follow; there are never more than cores.

    Raises:
        UnsupportedImage: If it is none of the types that are taken.
        BrokenImage: If it has too many pixels, is truncated, cannot be decoded, or its decoding does not end.
    """
    memory = BASE_BYTES + COPIES * len(data) + BYTES_PER_PIXEL * max_pixels
    try:
        with fail_after(LONGEST):
            return await to_process.run_sync(_inspect, data, max_pixels, memory, cancellable=True)
    except TimeoutError as error:
        raise BrokenImage(f"the image takes longer than {LONGEST} s to decode") from error
    except BrokenWorkerProcess as error:
        log.warning("a decoding process died", cause=repr(error.__cause__))
        raise BrokenImage("the image cannot be decoded: the decoder crashed") from error


def _inspect(data: bytes, max_pixels: int, memory: int) -> ImageType:
    for asking in (signal.SIGINT, signal.SIGTERM):  # a terminal's or a service manager's, for the API to answer
        signal.signal(asking, signal.SIG_IGN)
    signal.alarm(2 * LONGEST)  # the end of a hanging process whose API was killed
    try:
        with _address_space(memory):
            return inspect(BytesIO(data), max_pixels=max_pixels)
    except MemoryError as error:
        raise BrokenImage("the image needs too much memory to decode") from error
    finally:
        signal.alarm(0)


@contextmanager
def _address_space(limit: int) -> Iterator[None]:
    """Limit the process's memory in bytes, where the system can; the next file is read without a limit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
