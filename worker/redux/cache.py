"""Tensors that are made once and kept while there is room."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock

from torch import Tensor


class Cache:
    """The most recently used tensors by key, for any number of threads.

    Args:
        limit: Bytes that they may take together; one that is larger alone is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._kept: dict[Hashable, Future[Tensor]] = {}  #: the least recently used first

    def peek(self, key: Hashable) -> Tensor | None:
        """Return the tensor if it is here."""
        with self._lock:
            future = self._kept.get(key)
            if not future or not future.done():
                return None
            self._kept[key] = self._kept.pop(key)
            return future.result()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor; if it is not here one thread makes it, and the others that ask wait for it.

        Raises:
            Exception: Whatever ``make`` raises; the next one who asks tries again.
        """
        with self._lock:
            found = self._kept.pop(key, None)
            self._kept[key] = future = found or Future()
        if not found:
            self._make(key, future, make)
        return future.result()

    def _make(self, key: Hashable, future: Future[Tensor], make: Callable[[], Tensor]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                del self._kept[key]
            future.set_exception(error)
            raise
        finally:
            del future  # or it would keep, by its error, all that this call had made
        self._trim()

    def _trim(self) -> None:
        with self._lock:
            made = [key for key, future in self._kept.items() if future.done()]
            used = sum(self._kept[key].result().nbytes for key in made)
            for key in made:
                if used <= self._limit:
                    break
                used -= self._kept.pop(key).result().nbytes
