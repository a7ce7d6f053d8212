"""Tensors that are made once and kept while there is room."""

from collections.abc import Callable, Hashable
from threading import Condition

from cachetools import LRUCache, cached
from torch import Tensor


class Cache:
    """The most recently used tensors by key, for any number of threads.

    Args:
        limit: Bytes that they may take together; one that is larger alone is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._kept = LRUCache[Hashable, Tensor](limit, getsizeof=lambda tensor: tensor.nbytes)
        self._changed = Condition()
        keeping = cached(self._kept, key=lambda key, _: key, condition=self._changed)
        self._get: Callable[[Hashable, Callable[[], Tensor]], Tensor] = keeping(lambda _, make: make())

    def peek(self, key: Hashable) -> Tensor | None:
        """Return the tensor if it is here."""
        with self._changed:
            return self._kept.get(key)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor; if it is not here one thread makes it, and the others that ask wait for it.

        Raises:
            Exception: Whatever ``make`` raises; the next one who asks tries again.
        """
        return self._get(key, make)
