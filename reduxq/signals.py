"""Signals as something to ask for, so that none strikes between a start and its bookkeeping."""

import signal
from types import FrameType
from typing import Final, Self

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While entered, the signals that stop a program are only noted."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before = {number: signal.getsignal(number) for number in STOPPING}
        if self._before[signal.SIGHUP] is signal.SIG_IGN:
            del self._before[signal.SIGHUP]  # under nohup

    def __enter__(self) -> Self:
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_if_any(self) -> None:
        """Raise KeyboardInterrupt if one has come."""
        if self.received is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
