"""Store operations as values: generators of Redis commands, run by a sync client or by an async one.

A program yields a command and is sent its answer, or a list of commands, sent in one go, and is sent the list of their
answers; it returns its result. It is written once; the worker and the dispatcher run it with :func:`run`, the API with
:func:`run_async`. A list is no transaction: others' commands may come in between.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shared.errors import Misconfigured, RecordsUnavailable

Command = tuple[str | int | float, ...]
T = TypeVar("T")
Step = Command | list[Command]
Program = Generator[Step, Any, T]

SOCKET_TIMEOUT = timedelta(seconds=1.5)  #: the API promises its 503 within 2 s
#: Of one API process; so many callers at a time learn within the time above that the server is away.
CONNECTIONS = 500
QUEUE_TIMEOUT = timedelta(seconds=10)  #: for a connection, in a burst of more callers than that


#: How the answers of a server begin that is up and cannot serve: unable to save, stuck in a script, changing roles.
UNAVAILABLE = ("MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED", "MASTERDOWN")


class Guard(NamedTuple):
    """A read command that must answer ``expected`` (``""``: nothing) for a commit to happen."""

    command: Command
    expected: str


class Bounds(NamedTuple):
    """A read command that must answer a number from ``least`` to ``most`` for a commit to happen; nothing is 0."""

    command: Command
    least: float = 0
    most: float = 2**53


#: Checks all guards, then runs all effects, as one atomic step; answers 0, or the place of a guard that did not hold.
COMMIT_SCRIPT = """
local plan = cjson.decode(ARGV[1])
for place, guard in ipairs(plan.guards) do
  local found = redis.call(unpack(guard.command))
  if guard.expected then
    if tostring(found or '') ~= guard.expected then return place end
  else
    local number = tonumber(found or 0)
    if number < guard.least or number > guard.most then return place end
  end
end
for _, effect in ipairs(plan.effects) do redis.call(unpack(effect)) end
return 0
"""


def together(programs: Sequence[Program[T]]) -> Program[list[T]]:
    """Run programs side by side and return their results; what they ask at the same time is sent in one go."""
    results: dict[int, T] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(programs)))
    while answers:
        steps: dict[int, Step] = {}
        for place, answer in answers.items():
            try:
                steps[place] = programs[place].send(answer)
            except StopIteration as stop:
                results[place] = stop.value
        told = iter((yield [command for step in steps.values() for command in _commands(step)]) if steps else ())
        answers = {
            place: [next(told) for _ in step] if isinstance(step, list) else next(told) for place, step in steps.items()
        }
    return [results[place] for place in range(len(programs))]


def _commands(step: Step) -> list[Command]:
    return step if isinstance(step, list) else [step]


def commit(guards: Sequence[Guard | Bounds], effects: Sequence[Command]) -> Program[bool]:
    """Apply the effects atomically if every guard holds; return whether they were."""
    return (yield from broken_guard(guards, effects)) is None


def broken_guard(guards: Sequence[Guard | Bounds], effects: Sequence[Command]) -> Program[Guard | Bounds | None]:
    """As :func:`commit`, but return the first guard that did not hold; None when the effects were applied."""
    plan = {
        "guards": [guard._asdict() | {"command": [str(part) for part in guard.command]} for guard in guards],
        "effects": [[str(part) for part in effect] for effect in effects],
    }
    place = int((yield ("EVAL", COMMIT_SCRIPT, 0, json.dumps(plan))))
    return guards[place - 1] if place else None


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


async def run_async(client: "redis.asyncio.Redis", program: Program[T]) -> T:
    """As :func:`run`, without blocking the event loop."""
    with _translated_errors():
        try:
            step = next(program)
            while True:
                step = program.send(await _ask_async(client, step))
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


def _answers(batch: list[Any]) -> list[Any]:
    """Return a batch's answers, or raise the first error among them as it is: redis-py would change its message."""
    for answer in batch:
        if isinstance(answer, Exception):
            raise answer
    return batch


def connect(url: str, *, timeout: timedelta = SOCKET_TIMEOUT) -> redis.Redis:
    """Return a client that answers or fails within ``timeout``.

    A command, or list of them, whose connection broke is sent once more, for after a restart of the server every idle
    connection is broken. All programs bear that: commits are guarded, the other commands say the same twice.
    """
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return redis.Redis.from_url(url, retry=retry, **_options(timeout))


def connect_async(url: str, *, timeout: timedelta = SOCKET_TIMEOUT) -> "redis.asyncio.Redis":
    """As :func:`connect`, for the event loop; callers beyond the pool's size wait for their turn."""
    retry = AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    wait = QUEUE_TIMEOUT.total_seconds()
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=CONNECTIONS, timeout=wait, retry=retry, **_options(timeout)
    )
    return redis.asyncio.Redis.from_pool(pool)


def _options(timeout: timedelta) -> dict[str, Any]:
    seconds = timeout.total_seconds()
    return {"decode_responses": True, "socket_timeout": seconds, "socket_connect_timeout": seconds}


def require_durable(durability: str) -> Program[None]:
    """Refuse a records server that could forget what it accepted, unless the operator vouches for it.

    Raises:
        Misconfigured: If it keeps no append-only file, or does not sync it before it answers.
    """
    if durability == "managed":
        return
    persistence = yield ("INFO", "persistence")
    if not int(persistence.get("aof_enabled", 0)):
        raise Misconfigured(
            "the records server keeps no append-only file and would forget accepted jobs: set 'appendonly yes' and "
            "'appendfsync always' there, or REDUXQ_RECORDS__DURABILITY=managed if its operator vouches for it"
        )
    for name, needed in (("appendfsync", "always"), ("maxmemory-policy", "noeviction")):
        value = (yield ("CONFIG", "GET", name)).get(name, needed)
        if value != needed:
            raise Misconfigured(
                f"the records server has '{name} {value}' and could forget accepted jobs: set '{name} {needed}' there, "
                "or REDUXQ_RECORDS__DURABILITY=managed if its operator vouches for it"
            )


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise our own error for a server that cannot serve now; every other error passes as it is."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise RecordsUnavailable(f"the records server does not answer: {error}") from error
    except NoPermissionError as error:
        raise Misconfigured(f"the records server does not permit us what we need: {error}") from error
    except ResponseError as error:
        if not isinstance(error, OutOfMemoryError | ReadOnlyError) and not str(error).startswith(UNAVAILABLE):
            raise
        raise RecordsUnavailable(f"the records server takes no writes: {error}") from error
