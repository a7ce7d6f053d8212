"""Clients of a server in memory, with redis-py's faces."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import redis
import redis.asyncio
from redis.exceptions import ResponseError

Ask = Callable[..., Any]  #: takes a command and returns its answer


class MemoryRedis(redis.Redis):
    """All that redis-py's client offers by sending commands."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def execute_command(self, *command: Any, **_: Any) -> Any:
        return self.ask(*_as_sent(command))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002  redis-py's
        assert not transaction, "what must be atomic is a commit"
        return Batch(self.ask)

    def close(self) -> None:
        pass


class AsyncMemoryRedis(redis.asyncio.Redis):
    """As :class:`MemoryRedis`, for an event loop."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute_command(self, *command: Any, **_: Any) -> Any:
        await asyncio.sleep(0)  # as on a network, others come in between
        return self.ask(*_as_sent(command))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002  redis-py's
        assert not transaction, "what must be atomic is a commit"
        return AsyncBatch(self.ask)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001  redis-py's
        pass

    def __del__(self, *_: Any) -> None:
        """There is nothing to close."""


class Batch:
    """Commands that are sent in one go."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._commands: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return [self._answer(command) for command in self._commands]

    def _answer(self, command: tuple[Any, ...]) -> Any:
        try:
            return self._ask(*_as_sent(command))
        except ResponseError as error:
            return error


class AsyncBatch(Batch):
    """As :class:`Batch`, for an event loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, *, raise_on_error: bool) -> list[Any]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().execute(raise_on_error=raise_on_error)


def _as_sent(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """Split names of two words, as redis-py does."""
    return (*command[0].split(), *command[1:])
