"""The server in memory answers as a real one does, in the same shapes."""

import random
from typing import Any

import redis
from redis.exceptions import ResponseError

from shared.clock import Clock
from shared.connections import run
from shared.programs import Bounds, Guard, commit
from tests.memory.clients import MemoryRedis
from tests.memory.server import MemoryServer

KINDS = ("text", "hash", "set", "list", "sorted", "stream")


def any_command(chosen: random.Random) -> tuple[Any, ...]:
    """Return one of the commands that our programs send, now and then on a key that holds something else."""
    places = {
        kind: f"{chosen.choice(KINDS) if chosen.random() < 0.02 else kind}{chosen.choice('12')}" for kind in KINDS
    }
    text, hashed, members, listed, ranked, stream = places.values()
    x, y = chosen.choices("xyz", k=2)
    low, high = sorted((chosen.randint(-3, 3), chosen.randint(-3, 3)))
    commands: list[tuple[Any, ...]] = [
        ("GET", text),
        ("MGET", text, hashed, "nothing"),
        ("SET", text, low),
        ("SET", text, x, "NX", "PX", 90_000),
        ("SET", text, low, "EX", 90, "XX"),
        ("INCR", text),
        ("DEL", *chosen.sample([*places.values()], 2)),
        ("UNLINK", hashed, ranked),
        ("PERSIST", text),
        ("EXISTS", text, hashed),
        ("TYPE", ranked),
        ("TTL", text),
        ("PEXPIRE", text, 80_000),
        ("EXPIRE", text, 70, "NX"),
        ("HSET", hashed, x, low, y, high),
        ("HGET", hashed, x),
        ("HMGET", hashed, x, y),
        ("HGETALL", hashed),
        ("HLEN", hashed),
        ("HDEL", hashed, x),
        ("HINCRBY", hashed, x, high),
        ("SADD", members, x, y),
        ("SREM", members, x),
        ("SMEMBERS", members),
        ("SCARD", members),
        ("LPUSH", listed, x, y),
        ("LTRIM", listed, low, high),
        ("LRANGE", listed, low, high),
        ("BLPOP", listed, 0.001),
        ("LMOVE", "list1", listed, "LEFT", "LEFT"),
        ("ZADD", ranked, low, "1"),
        ("ZADD", ranked, chosen.choice([low, low + 0.5, 1.7e15 + 1]), x, high, y),
        ("ZADD", ranked, "NX", high, x),
        ("ZADD", ranked, "XX", "GT", high, x),
        ("ZADD", ranked, "LT", low, x),
        ("ZREM", ranked, x),
        ("ZCARD", ranked),
        ("ZINTERCARD", 2, "sorted1", ranked),
        ("ZSCORE", ranked, x),
        ("ZMSCORE", ranked, x, y),
        ("ZRANK", ranked, x),
        ("ZCOUNT", ranked, "-inf", high),
        ("ZRANGE", ranked, low, high),
        ("ZRANGE", ranked, low, high, "REV"),
        ("ZRANGE", ranked, low, high, "WITHSCORES"),
        ("ZRANGE", ranked, low, f"({high}", "BYSCORE", "LIMIT", 0, 2),
        ("ZRANGE", ranked, high, low, "BYSCORE", "REV"),
        ("ZRANGE", ranked, "-inf", "+inf", "BYSCORE", "LIMIT", 1, -1, "WITHSCORES"),
        ("SORT_RO", "sorted1", "BY", "nosort", "LIMIT", 0, 2, "GET", "#", "GET", "hash*->x", "GET", "text*"),
        ("SORT_RO", "sorted2", "BY", "nosort", "LIMIT", 0, -1, "GET", "hash*", "GET", "text*->x"),
        ("ZREMRANGEBYSCORE", ranked, "-inf", low),
        ("ZINTERSTORE", "sorted1", 2, "sorted1", "sorted2", "WEIGHTS", 1, 0),
        ("ZUNIONSTORE", ranked, 2, "sorted1", "sorted2"),
        ("XLEN", stream),
        ("NOSUCHCOMMAND", text),
    ]
    return chosen.choice(commands)


def answer(client: redis.Redis, command: tuple[Any, ...]) -> Any:
    try:
        found = client.execute_command(*command)  # type: ignore[no-untyped-call]
    except ResponseError as error:
        return type(error)
    return list(found) if isinstance(found, tuple) else found


def test_any_sequence_of_commands_is_answered_alike(records: redis.Redis) -> None:
    chosen, memory = random.Random(4), MemoryRedis(MemoryServer(Clock()).execute)
    for number in range(3000):
        command = any_command(chosen)
        real, ours = answer(records, command), answer(memory, command)
        assert (type(real), real) == (type(ours), ours), (number, command)


def test_a_commit_is_applied_whole_or_not_at_all_by_the_same_guards(records: redis.Redis) -> None:
    guards: list[Guard | Bounds] = [
        Guard(("GET", "text"), ""),
        Guard(("GET", "text"), "0"),
        Guard(("HGET", "hash", "x"), "5"),
        Guard(("EXISTS", "hash"), "1"),
        Guard(("ZSCORE", "sorted", "x"), "1.5"),
        Bounds(("ZCARD", "sorted"), most=1),
        Bounds(("GET", "text"), least=3),
        Bounds(("HGET", "hash", "nothing")),
    ]
    changes: list[tuple[Any, ...]] = [
        ("SET", "text", 0),
        ("INCR", "text"),
        ("HINCRBY", "hash", "x", 5),
        ("DEL", "text", "hash"),
        ("ZADD", "sorted", 1.5, "x"),
        ("ZADD", "sorted", 2, "y"),
        ("ZREM", "sorted", "y"),
    ]
    memory = MemoryRedis(MemoryServer(Clock()).execute)
    chosen, seen = random.Random(4), set[bool]()
    for number in range(500):
        effects = [chosen.choice(changes)]
        held = chosen.sample(guards, chosen.randint(0, 2))
        real, ours = run(records, commit(held, effects)), run(memory, commit(held, effects))
        assert real == ours, (number, held)
        seen.add(real)
    assert seen == {True, False}
