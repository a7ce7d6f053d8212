"""Who is there: workers that live, and the dispatcher that leads. What lapses lapses by the records server's clock."""

from datetime import timedelta
from typing import Final, NamedTuple, Self

from shared.job_index import ring
from shared.programs import Command, Guard, Program, commit, members

WORKERS: Final = "workers"  #: set of names of workers that were seen and may be gone
LEADER: Final = "dispatcher:leader"


class WorkerLife(NamedTuple):
    """What a living worker says of itself."""

    slots: int  #: jobs it holds or would take now
    speed: float  #: TFLOP/s; 0: it has not run a job yet
    ahead: int = 0  #: jobs that go ahead of others that it holds or would take besides
    gpu: str = ""  #: UUID of the GPU that it has to itself, if it does

    @classmethod
    def parse(cls, told: str, ahead: str | None, gpu: str | None) -> Self:
        """Read what :func:`announce_worker` wrote, or earlier releases did, which told less."""
        slots, speed, *_ = *told.split(), 0
        return cls(int(slots), float(speed), int(ahead or 0), gpu or "")


def announce_worker(name: str, life: WorkerLife, lasts: timedelta) -> Program[None]:
    """Say that a warm worker lives."""
    told: tuple[str | int, ...] = (f"{life.slots} {life.speed:.6g}", life.ahead, life.gpu)
    alive: list[Command] = [("SET", *each, "PX", _ms(lasts)) for each in zip(_places(name), told, strict=True)]
    yield from commit([], [("SADD", WORKERS, name), *alive])


def retire_worker(name: str) -> Program[None]:
    """Say that a worker takes no more jobs."""
    yield from commit([], [("SREM", WORKERS, name), ("DEL", *_places(name))])


def living_workers() -> Program[dict[str, WorkerLife]]:
    """Return the living workers by their names."""
    told = yield from members(WORKERS, *_places("*"))
    if gone := [name for name, (life, *_) in told if life is None]:
        yield ("SREM", WORKERS, *gone)
    return {name: WorkerLife.parse(life, *more) for name, (life, *more) in told if life is not None}


def lead(name: str, lasts: timedelta) -> Program[bool]:
    """Become or stay the one dispatcher that acts; False while another is."""
    if (yield from commit([Guard(("GET", LEADER), name)], [("PEXPIRE", LEADER, _ms(lasts))])):
        return True
    return (yield ("SET", LEADER, name, "NX", "PX", _ms(lasts))) is not None


def step_down(name: str) -> Program[None]:
    """Let another dispatcher lead at once."""
    yield from commit([Guard(("GET", LEADER), name)], [("DEL", LEADER), *ring()])


def leader() -> Program[str | None]:
    """Return the name of the dispatcher that leads, if one does."""
    name: str | None = yield ("GET", LEADER)
    return name


def _places(name: str) -> tuple[str, ...]:
    """Return where slots and speed stand, and each part told since: releases before would stumble over more in one."""
    return f"worker:{name}", *(f"worker:{name}:{part}" for part in ("ahead", "gpu"))


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
