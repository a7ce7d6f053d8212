"""What uvicorn writes in one turn of the loop goes out in one piece."""

import asyncio
from typing import Any, cast

from api.server import Gathered


class Wire:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def played(*turns: str, lost: bool = False) -> list[bytes]:
    """Write the letters of each word in a turn of its own, then close; return what was sent in one call each."""
    wire = Wire()

    async def play() -> None:
        gathered = Gathered(cast("Any", wire))
        for turn in turns:
            for letter in turn:
                gathered.write(letter.encode())
            wire.closed = lost
            await asyncio.sleep(0)
        gathered.write(b"end")
        gathered.close()
        await asyncio.sleep(0)

    asyncio.run(play())
    assert wire.closed
    return wire.sent


def test_each_turn_is_sent_at_its_end_and_the_last_before_the_connection_closes() -> None:
    assert played("hb", "c", "de") == [b"hb", b"c", b"de", b"end"]


def test_nothing_is_sent_on_a_connection_that_was_lost() -> None:
    assert played("hb", lost=True) == []
