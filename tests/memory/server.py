"""A server like Valkey: it knows the commands that our programs send, and no others."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from threading import Event
from typing import Any

from redis.exceptions import ResponseError

from shared.clock import Clock
from shared.programs import COMMIT_SCRIPT
from tests.memory.keyspace import Keyspace
from tests.memory.values import Fields, SortedSet, Stream, cut, text


class MemoryServer(Keyspace):
    """The data, and each command as a method; keys lapse by the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.run_id = "first"
        self.pushed = Event()
        self._entries = 0
        names = (name for name in dir(self) if name.startswith("do_"))
        self._commands: dict[str, Callable[..., Any]] = {name[3:].upper(): getattr(self, name) for name in names}

    def execute(self, *command: Any) -> Any:
        """Return the answer as redis-py gives it."""
        name, *parts = command
        known = self._commands.get(name)
        if known is None:
            raise ResponseError(f"unknown command '{name}'")
        return known(*map(text, parts))

    def do_eval(self, script: str, keys: str, guards: str, *told: str) -> int:
        assert (script, keys) == (COMMIT_SCRIPT, "0"), "only the script of all commits is known"
        left = iter(told)

        def call(length: str) -> Any:
            return self.execute(*islice(left, int(length)))

        for place in range(1, int(guards) + 1):
            found, wanted, most = call(next(left)), next(left), next(left)
            if not most:
                if _in_script(found) != wanted:
                    return place
            elif not float(wanted) <= float(found or 0) <= float(most):
                return place
        for length in left:
            call(length)
        return 0

    # Texts

    def do_get(self, key: str) -> str | None:
        value: str | None = self._find(key, str)
        return value

    def do_mget(self, *keys: str) -> list[str | None]:
        return [self.do_get(key) if self.do_type(key) == "string" else None for key in keys]

    def do_set(self, key: str, value: str, *options: str) -> bool | None:
        if self._there(key) if "NX" in options else "XX" in options and not self._there(key):
            return None
        self._forget(key)
        self.data[key] = value
        for unit, milliseconds in (("EX", 1000), ("PX", 1)):
            if unit in options:
                self.do_pexpire(key, str(int(options[options.index(unit) + 1]) * milliseconds))
        return True

    def do_incr(self, key: str) -> int:
        value = _sum(self.do_get(key), "1")
        self.data[key] = str(value)
        return value

    # Hashes

    def do_hset(self, key: str, *fields: str) -> int:
        value = self._make(key, dict)
        before = len(value)
        value.update(zip(fields[::2], fields[1::2], strict=True))
        return len(value) - before

    def do_hget(self, key: str, field: str) -> str | None:
        value: str | None = self._read(key, dict).get(field)
        return value

    def do_hmget(self, key: str, *fields: str) -> list[str | None]:
        return [self.do_hget(key, field) for field in fields]

    def do_hgetall(self, key: str) -> Fields:
        return dict(self._read(key, dict))

    def do_hlen(self, key: str) -> int:
        return len(self._read(key, dict))

    def do_hdel(self, key: str, *fields: str) -> int:
        value = self._read(key, dict)
        return self._tidied(key, sum(value.pop(field, None) is not None for field in fields))

    def do_hincrby(self, key: str, field: str, amount: str) -> int:
        value = _sum(self.do_hget(key, field), amount)
        self._make(key, dict)[field] = str(value)
        return value

    # Sets and lists

    def do_sadd(self, key: str, *members: str) -> int:
        value = self._make(key, set)
        before = len(value)
        value.update(members)
        return len(value) - before

    def do_srem(self, key: str, *members: str) -> int:
        value = self._read(key, set)
        gone = len(value.intersection(members))
        value.difference_update(members)
        return self._tidied(key, gone)

    def do_smembers(self, key: str) -> set[str]:
        return set(self._read(key, set))

    def do_scard(self, key: str) -> int:
        return len(self._read(key, set))

    def do_lpush(self, key: str, *values: str) -> int:
        value = self._make(key, list)
        value[:0] = reversed(values)
        self.pushed.set()
        return len(value)

    def do_lrange(self, key: str, first: str, last: str) -> list[str]:
        return cut(self._read(key, list), first, last)

    def do_ltrim(self, key: str, first: str, last: str) -> bool:
        value = self._read(key, list)
        value[:] = cut(value, first, last)
        self._tidied(key, 0)
        return True

    def do_blpop(self, key: str, seconds: str) -> list[str] | None:
        if not self._wait_for(lambda: bool(self._read(key, list)), float(seconds)):
            return None
        first = self._read(key, list).pop(0)
        self._tidied(key, 0)
        return [key, first]

    def do_lmove(self, source: str, target: str, *ends: str) -> str | None:
        assert ends == ("LEFT", "LEFT"), "only the first becomes the first"
        if not (there := self._read(source, list)):
            return None
        self._read(target, list)  # it must be none, or a list
        moved = str(there.pop(0))
        self._tidied(source, 0)
        self.do_lpush(target, moved)
        return moved

    # Sorted sets

    def do_zadd(self, key: str, *parts: str) -> int:
        options = {part for part in parts if part in {"NX", "XX", "GT", "LT"}}
        value, pairs, added = self._make(key, SortedSet), parts[len(options) :], 0
        for score, member in zip(map(float, pairs[::2]), pairs[1::2], strict=True):
            old = value.get(member)
            if old is None:
                if "XX" not in options:
                    value[member] = score
                    added += 1
            elif not ("NX" in options or ("GT" in options and score < old) or ("LT" in options and score > old)):
                value[member] = score
        return self._tidied(key, added)

    def do_zrem(self, key: str, *members: str) -> int:
        value = self._read(key, SortedSet)
        return self._tidied(key, sum(value.pop(member, None) is not None for member in members))

    def do_zcard(self, key: str) -> int:
        return len(self._read(key, SortedSet))

    def do_zintercard(self, _: str, *keys: str) -> int:
        first, *others = self._ranked(keys)
        return len(set(first).intersection(*others))

    def do_zscore(self, key: str, member: str) -> float | None:
        score: float | None = self._read(key, SortedSet).get(member)
        return score

    def do_zmscore(self, key: str, *members: str) -> list[float | None]:
        return [self.do_zscore(key, member) for member in members]

    def do_zrank(self, key: str, member: str) -> int | None:
        value = self._read(key, SortedSet)
        place: int | None = value.ordered().index(member) if member in value else None
        return place

    def do_zcount(self, key: str, least: str, most: str) -> int:
        return len(self._read(key, SortedSet).between(least, most))

    def do_zrange(self, key: str, first: str, last: str, *options: str) -> list[Any]:
        value, step = self._read(key, SortedSet), -1 if "REV" in options else 1
        if "BYSCORE" in options:
            found = value.between(*(first, last)[::step])[::step]
        else:
            found = cut(value.ordered()[::step], first, last)
        if "LIMIT" in options:
            place = options.index("LIMIT")
            offset, count = int(options[place + 1]), int(options[place + 2])
            found = found[offset:] if count < 0 else found[offset : offset + count]
        return [[member, value[member]] for member in found] if "WITHSCORES" in options else found

    def do_sort_ro(self, key: str, *parts: str) -> list[str | None]:
        options, shown = parts[:5], parts[6::2]
        assert options[:3] == ("BY", "nosort", "LIMIT"), "only a sorted set as it stands can be read"
        first, count = int(options[3]), int(options[4])
        (found,) = self._ranked([key])
        members = found.ordered()[first : None if count < 0 else first + count]
        return [self._shown(pattern, member) for member in members for pattern in shown]

    def _shown(self, pattern: str, member: str) -> str | None:
        key, _, field = pattern.replace("*", member, 1).partition("->")
        if pattern == "#":
            return member
        if self.do_type(key) != ("hash" if field else "string"):
            return None
        return self.do_hget(key, field) if field else self.do_get(key)

    def do_zremrangebyscore(self, key: str, least: str, most: str) -> int:
        return self.do_zrem(key, *self._read(key, SortedSet).between(least, most))

    def do_zinterstore(self, target: str, count: str, *options: str) -> int:
        sets = self._ranked(options[: int(count)])
        common = [member for member in sets[0] if all(member in other for other in sets[1:])]
        return self._store_sums(target, common, sets, options[int(count) + 1 :])

    def do_zunionstore(self, target: str, count: str, *options: str) -> int:
        sets = self._ranked(options[: int(count)])
        return self._store_sums(target, dict.fromkeys(member for each in sets for member in each), sets, ())

    def _ranked(self, keys: Sequence[str]) -> list[SortedSet]:
        """Return sorted sets, and plain ones as such, where each member has the score 1."""
        return [
            SortedSet(dict.fromkeys(self._read(key, set), 1.0))
            if self.do_type(key) == "set"
            else self._read(key, SortedSet)
            for key in keys
        ]

    def _store_sums(
        self, target: str, members: Iterable[str], sets: Sequence[SortedSet], weights: Sequence[str]
    ) -> int:
        weighted = list(zip(map(float, weights or ["1"] * len(sets)), sets, strict=True))
        scores = {member: sum(weight * each.get(member, 0.0) for weight, each in weighted) for member in members}
        self._forget(target)
        self.data[target] = SortedSet(scores)
        return self._tidied(target, len(scores))

    # Streams

    def do_xadd(self, key: str, *parts: str) -> str:
        fields = parts[parts.index("*") + 1 :]
        self._entries += 1
        entry_id = f"{self._entries}-0"
        self._make(key, Stream).append((entry_id, dict(zip(fields[::2], fields[1::2], strict=True))))
        self.pushed.set()
        return entry_id

    def do_xlen(self, key: str) -> int:
        return len(self._read(key, Stream))

    def do_xrange(self, key: str, first: str, last: str) -> list[tuple[str, Fields]]:
        assert (first, last) == ("-", "+"), "only a whole stream can be read"
        return list(self._read(key, Stream))

    def do_xrevrange(self, key: str, last: str, first: str, *options: str) -> list[tuple[str, Fields]]:
        entries = self.do_xrange(key, first, last)[::-1]
        return entries[: int(options[1])] if options else entries

    def do_xread(self, *parts: str) -> list[Any]:
        options = dict(zip(parts[:-3:2], parts[1:-3:2], strict=True))
        key, after = parts[-2:]
        found: list[list[tuple[str, Fields]]] = []

        def look() -> bool:
            entries = [entry for entry in self._read(key, Stream) if _place(entry[0]) > _place(after)]
            found[:] = [entries[: int(options["COUNT"])]] if entries else []
            return bool(entries)

        self._wait_for(look, int(options["BLOCK"]) / 1000)
        return [[key, entries] for entries in found]

    # The server itself

    def do_time(self) -> tuple[int, int]:
        return divmod(int(self._now() * 1e6), 1_000_000)

    def do_info(self, section: str) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def _wait_for(self, look: Callable[[], bool], seconds: float) -> bool:
        """Look again whenever something is pushed, until it is there or the time is over."""
        until = self.clock.monotonic() + seconds
        while not look():
            if (left := until - self.clock.monotonic()) <= 0:
                return False
            self.pushed.clear()
            self.clock.wait(self.pushed, left)
        return True


def _place(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


def _in_script(answer: Any) -> str:
    """Return what Lua's ``tostring`` makes of an answer."""
    return "" if answer is None else f"{answer:.17g}" if isinstance(answer, float) else str(answer)


def _sum(value: str | None, amount: str) -> int:
    try:
        return int(value or 0) + int(amount)
    except ValueError as error:
        raise ResponseError("value is not an integer or out of range") from error
