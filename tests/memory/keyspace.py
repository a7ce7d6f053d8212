"""Keys, what stands under them, and when they lapse."""

from fnmatch import fnmatchcase
from typing import Any

from redis.exceptions import ResponseError

from shared.clock import Clock
from tests.memory.values import SortedSet, Stream

NAMES: dict[type, str] = {str: "string", dict: "hash", set: "set", list: "list", SortedSet: "zset", Stream: "stream"}


class Keyspace:
    """The data of a server, with the commands on keys of any kind."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.data: dict[str, Any] = {}
        self.lapses: dict[str, float] = {}  #: seconds since the epoch

    def do_del(self, *keys: str) -> int:
        return sum(self._there(key) and self._forget(key) for key in keys)

    def do_unlink(self, *keys: str) -> int:
        return self.do_del(*keys)

    def do_persist(self, key: str) -> bool:
        return self._there(key) and self.lapses.pop(key, None) is not None

    def do_exists(self, *keys: str) -> int:
        return sum(map(self._there, keys))

    def do_pexpire(self, key: str, milliseconds: str, *options: str) -> bool:
        if not self._there(key) or ("NX" in options and key in self.lapses):
            return False
        self.lapses[key] = self._now() + int(milliseconds) / 1000
        return True

    def do_expire(self, key: str, seconds: str, *options: str) -> bool:
        return self.do_pexpire(key, str(int(seconds) * 1000), *options)

    def do_ttl(self, key: str) -> int:
        if not self._there(key):
            return -2
        return int(self.lapses[key] - self._now() + 0.5) if key in self.lapses else -1

    def do_type(self, key: str) -> str:
        return NAMES[type(self.data[key])] if self._there(key) else "none"

    def do_keys(self, pattern: str) -> list[str]:
        return [key for key in [*self.data] if fnmatchcase(key, pattern) and self._there(key)]

    def do_scan(self, cursor: str, *options: str) -> tuple[int, list[str]]:
        return 0, self.do_keys(options[options.index("MATCH") + 1] if "MATCH" in options else "*")

    def _now(self) -> float:
        return self.clock.now().timestamp()

    def _there(self, key: str) -> bool:
        if key in self.lapses and self.lapses[key] <= self._now():
            self._forget(key)
        return key in self.data

    def _find(self, key: str, kind: type) -> Any:
        value = self.data[key] if self._there(key) else None
        if value is not None and type(value) is not kind:
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _read(self, key: str, kind: type) -> Any:
        """Return what stands under a key; something empty that is not kept if nothing does."""
        value = self._find(key, kind)
        return kind() if value is None else value

    def _make(self, key: str, kind: type) -> Any:
        value = self._read(key, kind)
        self.data[key] = value
        return value

    def _forget(self, key: str) -> bool:
        self.lapses.pop(key, None)
        return self.data.pop(key, None) is not None

    def _tidied(self, key: str, answer: int) -> int:
        """Forget a collection that has become empty."""
        if not self.data.get(key, True):
            self._forget(key)
        return answer
