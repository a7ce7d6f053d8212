"""Decoding in real processes: they are stopped, killed and fed with bombs, and the next picture is none the worse."""

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import psutil
import pytest
from PIL import Image

from api import decoding
from api.decoding import inspect_apart
from shared.errors import BrokenImage, InvalidRequest, UnsupportedImage
from shared.images import ImageType
from tests.hostile import scan_bomb
from tests.samples import encoded, picture

LIMIT = 64_000_000
GOOD = encoded(picture(), "PNG")
JPEG = encoded(picture(), "JPEG")

inspect = partial(inspect_apart, max_pixels=LIMIT)


def processes() -> list[psutil.Process]:
    """The decoding processes of this one."""
    return [child for child in psutil.Process().children() if "anyio.to_process" in child.cmdline()]


@asynccontextmanager
async def hanging() -> AsyncIterator[int]:
    """Give the process that will take the next image, and hang over it."""
    await inspect(GOOD)
    (process,) = processes()
    process.suspend()
    yield process.pid


async def outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a call returns or which of our errors it raises."""
    try:
        return await call()
    except InvalidRequest as error:
        return error


@pytest.mark.parametrize("image_type", ImageType)
def test_a_picture_is_known_as_it_is_in_this_process(image_type: ImageType) -> None:
    assert anyio.run(inspect, encoded(picture(), image_type.name)) is image_type


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", BrokenImage, "the image is empty"),
        (JPEG[: len(JPEG) * 2 // 3], BrokenImage, "truncated or damaged"),
        (encoded(Image.new("1", (9000, 9000)), "PNG"), BrokenImage, "9000 x 9000 = 81000000 pixels; at most 64000000"),
        (b"GIF89a", UnsupportedImage, "a GIF; allowed are PNG, JPEG, WEBP"),
    ],
)
def test_an_error_comes_back_as_itself(data: bytes, kind: type[InvalidRequest], message: str) -> None:
    error = anyio.run(outcome, partial(inspect, data))
    assert type(error) is kind
    assert message in error.message
    assert error.details == ()


def test_an_image_that_takes_too_long_is_refused_in_time_and_its_process_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CPU_SECONDS", 1)
    slow = scan_bomb(2000, 10_000)

    async def scene() -> None:
        await inspect(GOOD)
        (process,) = processes()
        error = await outcome(partial(inspect, slow))
        assert isinstance(error, BrokenImage)
        assert "worked on it for longer than 1 s" in error.message
        assert not process.is_running()
        assert await inspect(GOOD) is ImageType.PNG

    anyio.run(scene)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_costs_its_own_image_and_no_other(death: signal.Signals) -> None:
    outcomes = {}

    async def note(name: str, data: bytes) -> None:
        outcomes[name] = await outcome(partial(inspect, data))

    async def scene() -> None:
        async with hanging() as pid, anyio.create_task_group() as group:
            group.start_soon(note, "crashing", GOOD)
            await anyio.sleep(0.1)
            await note("other", JPEG)
            os.kill(pid, death)
            with suppress(ProcessLookupError):  # a killed one does not wait to be continued
                os.kill(pid, signal.SIGCONT)
        await note("next", GOOD)

    anyio.run(scene)
    assert isinstance(outcomes["crashing"], BrokenImage)
    assert "crashed" in outcomes["crashing"].message
    assert (outcomes["other"], outcomes["next"]) == (ImageType.JPEG, ImageType.PNG)


def test_an_image_that_needs_too_much_memory_is_refused_and_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BASE_BYTES", 2**27)
    monkeypatch.setattr(decoding, "BYTES_PER_PIXEL", 0)
    bomb = encoded(Image.new("RGB", (8000, 7500)), "PNG")  # 240 MB in a file of 180 kB

    async def scene() -> None:
        await inspect(GOOD)
        (process,) = processes()
        before = process.memory_info().vms
        error = await outcome(partial(inspect, bomb))
        assert isinstance(error, BrokenImage)
        assert error.message == "the image needs too much memory to decode"
        assert process.memory_info().vms < before + 2**25
        assert await inspect(GOOD) is ImageType.PNG
        assert processes() == [process]

    anyio.run(scene)


def test_there_are_no_more_processes_than_cores_and_none_when_the_loop_has_ended() -> None:
    async def scene() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2 * (os.cpu_count() or 1)):
                group.start_soon(inspect, GOOD)
        assert 0 < len(processes()) <= (os.cpu_count() or 1)

    anyio.run(scene)
    until = time.monotonic() + 5
    while processes():
        assert time.monotonic() < until
        time.sleep(0.01)
