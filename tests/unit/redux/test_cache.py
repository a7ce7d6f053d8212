"""What is made once, and for how long it is kept."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor

from worker.redux.cache import Cache


def nothing() -> Tensor:
    raise AssertionError("it is here already")


def test_the_least_recently_used_goes_when_there_is_no_room() -> None:
    cache = Cache(200)
    for key in "ab":
        cache.get(key, lambda: torch.zeros(100, dtype=torch.uint8))
    cache.get("a", nothing)
    cache.get("c", lambda: torch.zeros(100, dtype=torch.uint8))
    assert [cache.peek(key) is not None for key in "abc"] == [True, False, True]


def test_what_is_larger_than_the_room_is_made_and_not_kept() -> None:
    cache = Cache(10)
    assert len(cache.get("a", lambda: torch.zeros(100))) == 100
    assert cache.peek("a") is None


def test_one_thread_makes_it_and_the_others_wait() -> None:
    cache, asked, go, made = Cache(1000), Event(), Event(), []

    def make() -> Tensor:
        made.append(1)
        asked.set()
        assert go.wait(10)
        return torch.ones(1)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, "a", make)
        assert asked.wait(10)
        others = [pool.submit(cache.get, "a", make) for _ in range(7)]
        assert cache.peek("a") is None
        assert cache.get("b", lambda: torch.zeros(1)) == 0  # another key does not wait
        go.set()
        assert [future.result() for future in (first, *others)] == [1] * 8
    assert made == [1]


def test_after_a_failure_the_next_one_tries_again() -> None:
    cache = Cache(1000)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: torch.zeros(1 // 0))
    assert cache.get("a", lambda: torch.ones(1)) == 1
