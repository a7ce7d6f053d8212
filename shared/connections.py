"""What runs programs on the records server: connections of threads, or of an event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, Final, cast

import redis
import redis.asyncio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shared.errors import Misconfigured, RecordsUnavailable
from shared.programs import Program, Step, T, commands_of

SOCKET_TIMEOUT: Final = timedelta(seconds=1.5)  #: the API promises its 503 within 2 s
LINES: Final = 2  #: connections that share the callers of a process: one is filled while the other waits for the server

#: How the answers of a server begin that is up and cannot serve: unable to save, stuck in a script, changing roles.
UNAVAILABLE: Final = ("MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED", "MASTERDOWN")


def run(client: redis.Redis, program: Program[T]) -> T:
    """Run a program to its end.

    Raises:
        RecordsUnavailable: If the server does not answer or takes no writes.
    """
    with _translated_errors():
        try:
            step = next(program)
            while True:
                step = program.send(_ask(client, step))
        except StopIteration as stop:
            result: T = stop.value
            return result


async def run_async(client: "AsyncClient", program: Program[T]) -> T:
    """As :func:`run`, without blocking the event loop."""
    ask = client.ask if isinstance(client, SharedConnection) else partial(_ask_async, client)
    with _translated_errors():
        try:
            step = next(program)
            while True:
                step = program.send(await ask(step))
        except StopIteration as stop:
            result: T = stop.value
            return result


def _ask(client: redis.Redis, step: Step) -> Any:
    if isinstance(step, tuple):
        return client.execute_command(*step)  # type: ignore[no-untyped-call]
    with client.pipeline(transaction=False) as batch:
        for command in step:
            batch.execute_command(*command)  # type: ignore[no-untyped-call]
        return _answers(batch.execute(raise_on_error=False))


async def _ask_async(client: "redis.asyncio.Redis", step: Step) -> Any:
    if isinstance(step, tuple):
        return await client.execute_command(*step)  # type: ignore[no-untyped-call]
    async with client.pipeline(transaction=False) as batch:
        for command in step:
            batch.execute_command(*command)
        return _answers(await batch.execute(raise_on_error=False))


class SharedConnection:
    """Lets many callers on one event loop share a line: what they ask while the server answers goes out as one batch.

    A batch costs the server one fsync, and each of its commands a fraction of the work that it would be alone. When
    the server does not answer, all who wait are told at once.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._understand = dict(client.response_callbacks)
        self._waiting: list[tuple[Step, bytes, asyncio.Future[Any]]] = []
        self._senders: set[asyncio.Task[None]] = set()

    async def ask(self, step: Step) -> Any:
        """Return the answer to a step, or raise what the server or the connection says."""
        packed = b"".join([pack_command(command) for command in commands_of(step)])  # type: ignore[arg-type]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, packed, answer))
        if len(self._senders) < LINES:
            self._senders.add(asyncio.create_task(self._send()))
        return await answer

    async def _send(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(SOCKET_TIMEOUT.total_seconds()):
                    names = [str(command[0]) for step, *_ in asked for command in commands_of(step)]
                    found = await self._exchange(b"".join([packed for _, packed, _ in asked]), names)
            except Exception as error:  # noqa: BLE001  it is theirs who asked
                asked += self._waiting
                self._waiting = []
                for *_, answer in asked:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                answers = iter(found)
                for step, _, answer in asked:
                    _settle(answer, step, list(islice(answers, len(commands_of(step)))))
        self._senders.remove(cast("asyncio.Task[None]", asyncio.current_task()))  # now, or a step would be left behind

    async def _exchange(self, packed: bytes, names: list[str]) -> list[Any]:
        """Send commands in one go and return their answers, errors among them: a pipeline at a third of its price."""
        pool = self._client.connection_pool
        connection: AbstractConnection = await pool.get_connection()  # type: ignore[no-untyped-call]

        async def exchange() -> list[Any]:
            await connection.send_packed_command(packed)
            answers: list[Any] = []
            for name in names:
                try:
                    answer = await connection.read_response()
                    answers.append(self._understand[name](answer) if name in self._understand else answer)
                except ResponseError as error:
                    answers.append(error)
            return answers

        try:
            return await connection.retry.call_with_retry(exchange, lambda _: connection.disconnect())
        except BaseException:
            await connection.disconnect(nowait=True)  # answers may be left in it
            raise
        finally:
            await pool.release(connection)


AsyncClient = redis.asyncio.Redis | SharedConnection


def _settle(answer: "asyncio.Future[Any]", step: Step, found: list[Any]) -> None:
    if answer.done():  # who asked has gone
        return
    try:
        answer.set_result(_answers(found) if isinstance(step, list) else _answers(found)[0])
    except Exception as error:  # noqa: BLE001  it is theirs who asked
        answer.set_exception(error)


def _answers(batch: list[Any]) -> list[Any]:
    """Return a batch's answers, or raise the first error among them as it is: redis-py would change its message."""
    for answer in batch:
        if isinstance(answer, Exception):
            raise answer
    return batch


def connect(url: str, *, timeout: timedelta = SOCKET_TIMEOUT) -> redis.Redis:
    """Return a client that answers or fails within ``timeout``.

    A command, or list of them, whose connection broke is sent once more, for after a restart of the server every idle
    connection is broken. All programs bear that: commits are guarded, the other commands say the same twice, or, as the
    count of a key's requests, may be one too high.
    """
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return redis.Redis.from_url(url, retry=retry, **_options(timeout))


def connect_async(url: str, *, timeout: timedelta = SOCKET_TIMEOUT) -> "redis.asyncio.Redis":
    """As :func:`connect`, for the event loop; each who asks at the same time has a connection."""
    return redis.asyncio.Redis.from_url(url, retry=_once_more_async(), **_options(timeout))


@asynccontextmanager
async def connect_shared(url: str) -> AsyncIterator[SharedConnection]:
    """As :func:`connect_async`, with one connection for all."""
    # The limit is for a whole batch; redis-py would start a timer for each answer.
    options = _options(SOCKET_TIMEOUT) | {"socket_timeout": None}
    async with redis.asyncio.Redis.from_url(url, retry=_once_more_async(), **options) as client:
        yield SharedConnection(client)


def _once_more_async() -> AsyncRetry:
    return AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))


def _options(timeout: timedelta) -> dict[str, Any]:
    seconds = timeout.total_seconds()
    return {"decode_responses": True, "socket_timeout": seconds, "socket_connect_timeout": seconds}


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for a server that cannot serve now; every other error passes as it is."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, TimeoutError) as error:
        raise RecordsUnavailable(f"the records server does not answer: {error}") from error
    except NoPermissionError as error:
        raise Misconfigured(f"the records server does not permit us what we need: {error}") from error
    except ResponseError as error:
        if not isinstance(error, OutOfMemoryError | ReadOnlyError) and not str(error).startswith(UNAVAILABLE):
            raise
        raise RecordsUnavailable(f"the records server takes no writes: {error}") from error
