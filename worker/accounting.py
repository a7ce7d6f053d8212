"""How long the model's calls take: for which job, in which size, and so how fast the engine is."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar

from shared.cost import step_teraflops
from shared.sizes import Size
from worker import metrics
from worker.work import Model, Spent, Work

PACES: Final = 15  #: newest steps that tell how fast the engine is, without the slowest, which may have compiled

Made = TypeVar("Made")


class _Call(NamedTuple):
    """A call of the model that the device was given."""

    shares: list[tuple[Spent, float]]  #: of its time, by job
    rows: int
    size: Size | None  #: of a step's rows; None: it was no step, or failed
    first: Any  #: the model's mark before it
    second: Any  #: and behind it


class Accounts:
    """Puts the time of each call down to its jobs, once the device is through with it: a GPU is a call behind.

    Args:
        model: Marks the calls. Only the engine's thread makes them.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._open: deque[_Call] = deque()
        self._settling = Lock()
        self._paces: deque[tuple[float, float, float]] = deque(maxlen=PACES)  #: TFLOP/s, TFLOP, seconds
        self.speed = 0.0  #: TFLOP/s of the last steps; 0 before the first

    def measured(self, chosen: Mapping[Work, Sequence[int]], call: Callable[[], Made], *, is_step: bool) -> Made:
        """Make a call, whose time is the jobs' by their rows.

        Args:
            chosen: The jobs with the places of their rows.
            call: Of the model.
            is_step: Whether it takes a step with these rows, which then have one size.
        """
        rows, size = sum(map(len, chosen.values())), None
        shares = [(work.spent, len(places) / rows) for work, places in chosen.items()]
        first = self._model.mark()
        try:
            made = call()
            size = next(iter(chosen)).recipe.size if is_step else None
        finally:
            self._open.append(_Call(shares, rows, size, first, self._model.mark()))
        return made

    def settle(self) -> None:
        """Put down the calls that the device is through with; any thread may."""
        with self._settling:
            while self._open:
                call = self._open[0]
                seconds = self._model.between(call.first, call.second)
                if seconds is None:
                    return
                self._open.popleft()
                metrics.BUSY.inc(seconds)
                for spent, share in call.shares:
                    spent.seconds += seconds * share
                if call.size:
                    metrics.call(call.size, call.rows, seconds)
                    self._pace(call.rows * step_teraflops(call.size), seconds)

    def _pace(self, work: float, seconds: float) -> None:
        seconds = max(seconds, 1e-9)
        self._paces.append((work / seconds, work, seconds))
        _, works, times = zip(*sorted(self._paces)[len(self._paces) > 1 :], strict=True)
        self.speed = sum(works) / sum(times)
