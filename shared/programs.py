"""Store operations as values: generators of Redis commands, written once for a sync client and for an async one.

A program yields a command and is sent its answer, or a list of commands, sent in one go, and is sent the list of their
answers; it returns its result. :mod:`shared.connections` runs it. A list is no transaction: others' commands may come
in between.
"""

from collections.abc import Generator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

Command = tuple[str | int | float, ...]
T = TypeVar("T")
Step = Command | list[Command]
Program = Generator[Step, Any, T]


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
#: It is told the number of guards and each of them with what is expected, "" for no upper bound; then the effects. In
#: front of each command stands its length.
COMMIT_SCRIPT = """
local at = 2
local function call()
  local first = at + 1
  at = first + ARGV[at]
  return redis.call(unpack(ARGV, first, at - 1))
end
for place = 1, ARGV[1] do
  local found = call()
  local wanted, most = ARGV[at], ARGV[at + 1]
  at = at + 2
  if most ~= '' then
    local number = tonumber(found or 0)
    if number < tonumber(wanted) or number > tonumber(most) then return place end
  elseif tostring(found or '') ~= wanted then return place end
end
while at <= #ARGV do call() end
return 0
"""


def together(programs: Sequence[Program[T]]) -> Program[list[T]]:
    """Run programs side by side and return their results; what they ask at the same time is sent in one go."""
    results: list[Any] = [None] * len(programs)
    going: list[tuple[int, Program[T], Any]] = [(place, program, None) for place, program in enumerate(programs)]
    while going:
        asked: list[tuple[int, Program[T], Step]] = []
        commands: list[Command] = []
        for place, program, answer in going:
            try:
                step = program.send(answer)
            except StopIteration as stop:
                results[place] = stop.value
            else:
                asked.append((place, program, step))
                commands += commands_of(step)
        told = iter((yield commands) if asked else ())
        going = [
            (place, program, list(islice(told, len(step))) if isinstance(step, list) else next(told))
            for place, program, step in asked
        ]
    return results


def commands_of(step: Step) -> list[Command]:
    """Return what a step asks."""
    return step if isinstance(step, list) else [step]


def lowest(index: str, most: float, limit: int) -> Command:
    """Return the command that reads a sorted set's members with a score up to ``most``, the lowest first."""
    return ("ZRANGE", index, "-inf", most, "BYSCORE", "LIMIT", 0, limit)


def members(key: str, *places: str, limit: int = -1) -> Program[list[tuple[str, list[str | None]]]]:
    """Return the members of a set, of a sorted one the lowest first, each with what stands at places that it names.

    Args:
        key: Of the set.
        places: Of texts, or ``place->field`` of hashes, with ``*`` for the member.
        limit: Members at most; -1: all.
    """
    shown = [part for each in ("#", *places) for part in ("GET", each)]
    found = yield ("SORT_RO", key, "BY", "nosort", "LIMIT", 0, limit, *shown)
    width = 1 + len(places)
    return [(found[start], found[start + 1 : start + width]) for start in range(0, len(found), width)]


def commit(guards: Sequence[Guard | Bounds], effects: Sequence[Command]) -> Program[bool]:
    """Apply the effects atomically if every guard holds; return whether they were."""
    return (yield from broken_guard(guards, effects)) is None


def broken_guard(guards: Sequence[Guard | Bounds], effects: Sequence[Command]) -> Program[Guard | Bounds | None]:
    """As :func:`commit`, but return the first guard that did not hold; None when the effects were applied."""
    told: list[str | int | float] = [len(guards)]
    for guard in guards:
        wanted = (guard.expected, "") if isinstance(guard, Guard) else guard[1:]
        told += (len(guard.command), *guard.command, *wanted)
    for effect in effects:
        told += (len(effect), *effect)
    place = int((yield ("EVAL", COMMIT_SCRIPT, 0, *told)))
    return guards[place - 1] if place else None
