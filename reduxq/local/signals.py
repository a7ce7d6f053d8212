"""Signals as something to ask for, so that none strikes between a start and its bookkeeping."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """While entered, the signals that stop a program are only noted, in the list that this hands out."""
    noted: list[int] = []
    stopping = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        stopping.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda received, _: noted.append(received)) for number in stopping}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
