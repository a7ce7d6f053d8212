"""What stands under the keys of a server in memory, beside texts, hashes, sets and lists."""

from typing import Any

Fields = dict[str, str]


class SortedSet(dict[str, float]):
    """Members with their scores."""

    def ordered(self) -> list[str]:
        return sorted(self, key=lambda member: (self[member], member))

    def between(self, least: str, most: str) -> list[str]:
        """Return the members with a score in a range; ``(`` before a bound excludes it."""
        low, high = float(least.removeprefix("(")), float(most.removeprefix("("))
        return [
            member
            for member in self.ordered()
            if low <= (score := self[member]) <= high
            and not (least[0] == "(" and score == low)
            and not (most[0] == "(" and score == high)
        ]


class Stream(list[tuple[str, Fields]]):
    """Entries with their ids."""


def cut(values: list[str], first: str, last: str) -> list[str]:
    """Return the part between two places, both included, that count from the end if they are negative."""
    start, stop = int(first), int(last)
    start = max(0, start + len(values)) if start < 0 else start
    return values[start : stop + 1 + (len(values) if stop < 0 else 0)]


def text(part: Any) -> str:
    """Return a part of a command as the server sees it."""
    if isinstance(part, bool):
        raise TypeError("a command has no part that is true or false")
    if isinstance(part, bytes):
        return part.decode()
    return repr(part) if isinstance(part, float) else str(part)
