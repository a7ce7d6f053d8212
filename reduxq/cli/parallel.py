"""Work side by side that Ctrl-C does not wait for."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS: Final = 8  #: for one command; each holds one connection, and one image while it is sent


def side_by_side(work: Callable[[T], R], things: Iterable[T]) -> "list[Future[R]]":
    """Begin to work on all things; the threads end with the process, whatever they are at."""
    todo: SimpleQueue[tuple[Future[R], T]] = SimpleQueue()
    futures = []
    for thing in things:
        futures.append(Future[R]())
        todo.put((futures[-1], thing))

    def labour() -> None:
        while True:
            try:
                future, thing = todo.get_nowait()
            except Empty:
                return
            try:
                future.set_result(work(thing))
            except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
                future.set_exception(error)

    for _ in range(min(THREADS, len(futures))):
        Thread(target=labour, daemon=True).start()
    return futures
