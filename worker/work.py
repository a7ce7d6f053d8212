"""What the engine works on: the model, as the engine sees it, and one job of it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from shared.cost import decode_teraflops, step_teraflops
from shared.images import Picture, Source
from shared.jobs import Recipe
from shared.sizes import Size
from shared.turns import LOW_PATIENCE, PATIENCE
from worker.policy import Flight


class OutOfMemory(Exception):
    """The rows of a call do not fit the device together."""


class Trajectory(Protocol):
    """One variation on its way through the denoising steps."""

    @property
    def size(self) -> Size: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...


class Model(Protocol):
    """What the engine needs of a model."""

    def prepare(self, source: Source, recipe: Recipe) -> Any:
        """Return what :meth:`begin` needs, made beside the engine, in the job's own thread."""

    def begin(self, prepared: Any) -> Sequence[Any]:
        """Return a trajectory for each seed, in their order."""

    def advance(self, rows: Sequence[Any]) -> None:
        """Take one step with each of these trajectories of one size; if it raises, none has changed.

        Raises:
            OutOfMemory: If that are too many.
        """

    def decode(self, row: Any) -> Callable[[], Picture]:
        """Return what returns the finished picture, or raises; the job's own thread calls it."""

    def mark(self) -> Any:
        """Return a mark behind all that the device was given so far."""

    def between(self, first: Any, second: Any) -> float | None:
        """Return how many seconds the device took from one mark to another; None: it has not come so far."""


class Watch(Protocol):
    """Who follows a job while the engine has it."""

    low: bool  #: whether others go first
    accepted: float  #: seconds, monotonic: when the job was

    def check(self) -> None:
        """Raise the error that ends the job here, if one does."""

    def tell(self, made: Sequence[int], steps: int) -> None:
        """Take note of how many of its steps each variation has made."""


class Varied(NamedTuple):
    """What came out of a job's denoising."""

    pictures: list[Picture]  #: in the order of the seeds
    seconds: float  #: that the model took for this job


class Spent:
    """Seconds that the model took for a job; outlives the job, whose last call may end after it has left."""

    seconds = 0.0


class Work:
    """One job in the engine."""

    def __init__(self, prepared: Any, recipe: Recipe, watch: Watch, now: float) -> None:
        self.prepared = prepared
        self.recipe = recipe
        self.watch = watch
        size, steps = recipe.size, recipe.num_inference_steps
        self.step_work = step_teraflops(size)  #: TFLOP of one step of one variation
        self.row_work = steps * self.step_work + decode_teraflops(size)  #: TFLOP of one variation
        self.entered = self.served = now
        self.arrived = min(now, watch.accepted)
        self.spent = Spent()
        self.rows: Sequence[Trajectory] = ()  #: none before it has begun
        self.pictures: list[Callable[[], Picture]] = []  #: of the first rows, for they finish in order
        self.done: Future[list[Callable[[], Picture]]] = Future()

    @property
    def open(self) -> Sequence[int]:
        """Places of the trajectories that still need steps."""
        return range(len(self.pictures), len(self.recipe.seeds))

    @property
    def left(self) -> float:
        """TFLOP until it is done, decoding included."""
        made = sum(row.step for row in self.rows[len(self.pictures) :])
        return len(self.open) * self.row_work - made * self.step_work

    def drop(self) -> None:
        """Let go of everything, for a traceback may keep this job alive, and with it the device's memory."""
        vars(self).clear()

    def flight(self) -> Flight:
        """Return how far the job is, as the policy sees it."""
        return Flight(
            size=self.recipe.size,
            rows=len(self.open),
            step_work=self.step_work,
            left=self.left,
            total=len(self.recipe.seeds) * self.row_work,
            arrived=self.arrived,
            entered=self.entered,
            served=self.served,
            patience=LOW_PATIENCE if self.watch.low else PATIENCE,
        )
