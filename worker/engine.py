"""The engine: one thread that owns the model and advances jobs step by step."""

import math
import os
from collections import deque
from concurrent.futures import Future
from datetime import timedelta
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Final, NamedTuple, Protocol

import structlog

from shared.clock import Clock
from shared.errors import ReduxqError
from shared.images import Picture
from shared.jobs import Recipe

log = structlog.get_logger(__name__)

LOOK: Final = 0.5  #: seconds between two looks at whether the engine still ticks


class Denoising(Protocol):
    """One job's trajectories on their way through the denoising steps; they belong to the model that began them."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def finished(self) -> bool: ...


class Model(Protocol):
    """What the engine needs of a model; only the engine's thread calls it."""

    def condition(self, source: Picture) -> Any:
        """Return what the model sees of the source."""

    def begin(self, condition: Any, recipe: Recipe) -> Any:
        """Return a denoising with one trajectory for each seed."""

    def advance(self, denoising: Any) -> None:
        """Take one step with all trajectories."""

    def decode(self, denoising: Any) -> list[Picture]:
        """Return the finished pictures, in the order of the seeds."""


class Watch(Protocol):
    """Who follows a job while the engine has it."""

    def check(self) -> None:
        """Raise the error that ends the job here, if one does."""

    def tell(self, step: int, steps: int) -> None:
        """Take note of the progress."""


class Varied(NamedTuple):
    """What came out of a job's denoising."""

    pictures: list[Picture]  #: in the order of the seeds
    seconds: float  #: that the engine spent on this job


class _Work:
    """One job in the engine."""

    def __init__(self, source: Picture, recipe: Recipe, watch: Watch) -> None:
        self.source = source
        self.recipe = recipe
        self.watch = watch
        self.denoising: Denoising | None = None
        self.seconds = 0.0  #: that the engine spent on it
        self.varied: Future[Varied] = Future()

    @property
    def seconds_left(self) -> float:
        """As many as its steps took so far; without a step nobody knows."""
        made = self.denoising.step if self.denoising else 0
        return self.seconds / made * (self.denoising.steps - made) if self.denoising and made else math.inf


class Engine:
    """Runs the model for all jobs of this worker, the oldest first, one step at a time.

    A model that fails in a way it does not know itself, twice without a success between, ends the process: a device
    whose context is broken (CUDA's illegal memory access) fails every later job too.

    Args:
        model: Makes the variations.
        clock: Measures the steps.
        stall: With work and without a step for so long, the engine ends the process.
    """

    def __init__(self, model: Model, clock: Clock, stall: timedelta) -> None:
        self._model = model
        self._clock = clock
        self._stall = stall.total_seconds()
        self._inbox: SimpleQueue[_Work | None] = SimpleQueue()
        self._active: deque[_Work] = deque()
        self.seconds_left = 0.0  #: until the jobs are done that were here at the last step
        self._ticks = 0
        self._failures = 0  #: of the model, unexpected, since the last success
        self._stopped = Event()
        self._thread = Thread(target=self._run_or_die, name="engine", daemon=True)
        self._watchdog = Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Finish what was given so far, then end the thread."""
        self._inbox.put(None)
        self._thread.join()
        self._stopped.set()

    def vary(self, source: Picture, recipe: Recipe, watch: Watch) -> Varied:
        """Return a variation of the source for each seed; blocks until they are there.

        Raises:
            ReduxqError: What ``watch.check`` raised, which is asked before each step, or the model itself.
            Exception: Whatever else the model raised; the engine goes on with other jobs.
        """
        work = _Work(source, recipe, watch)
        self._inbox.put(work)
        return work.varied.result()

    def _run_or_die(self) -> None:
        """Run; without its engine the process could only renew leases for ever, so it ends and loses them."""
        try:
            self._run()
        except BaseException:
            log.exception("the engine died, and the worker with it")
            os._exit(1)

    def _watch(self) -> None:
        """End the process when the engine stalls; looks are counted, so that a frozen process is not a stalled one."""
        silent, seen = 0.0, self._ticks
        while not self._clock.wait(self._stopped, LOOK):
            silent = silent + LOOK if self._active and self._ticks == seen else 0.0
            seen = self._ticks
            if silent >= self._stall:
                log.critical("the engine hangs, and the worker ends", seconds_without_a_step=silent)
                os._exit(1)

    def _run(self) -> None:
        while True:
            while not self._active or not self._inbox.empty():
                work = self._inbox.get()
                if work is None:
                    self._inbox.put(None)
                    break
                self._active.append(work)
            if not self._active:
                return
            self._tick(self._active[0])
            self._ticks += 1
            self.seconds_left = sum(left.seconds_left for left in self._active)

    def _tick(self, work: _Work) -> None:
        """Take one step of one job and let it leave if that was its last."""
        try:
            work.watch.check()
            pictures = self._advance(work)
        except ReduxqError as error:
            self._leave(work).set_exception(error)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits for the job is told
            self._failures += 1
            if self._failures > 1:
                log.critical("the model failed twice in a row, and the worker ends", error=repr(error))
                os._exit(1)
            self._leave(work).set_exception(error)
        else:
            if pictures is not None:
                self._failures = 0
                self._leave(work).set_result(Varied(pictures, work.seconds))

    def _advance(self, work: _Work) -> list[Picture] | None:
        started = self._clock.monotonic()
        if work.denoising is None:
            work.denoising = self._model.begin(self._model.condition(work.source), work.recipe)
        self._model.advance(work.denoising)
        work.watch.tell(work.denoising.step, work.denoising.steps)
        pictures = self._model.decode(work.denoising) if work.denoising.finished else None
        work.seconds += self._clock.monotonic() - started
        return pictures

    def _leave(self, work: _Work) -> "Future[Varied]":
        self._active.remove(work)
        return work.varied
