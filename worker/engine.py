"""The engine: one thread that owns the model and advances jobs step by step."""

import os
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import structlog

from shared.errors import ModelFailed, ReduxqError
from shared.images import Picture
from shared.jobs import Recipe

log = structlog.get_logger(__name__)


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


class _Work:
    """One job in the engine."""

    def __init__(self, source: Picture, recipe: Recipe, watch: Watch) -> None:
        self.source = source
        self.recipe = recipe
        self.watch = watch
        self.denoising: Denoising | None = None
        self.pictures: Future[list[Picture]] = Future()


class Engine:
    """Runs the model for all jobs of this worker, the oldest first, one step at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._inbox: SimpleQueue[_Work | None] = SimpleQueue()
        self._active: deque[_Work] = deque()
        self._thread = Thread(target=self._run_or_die, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was given so far, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def vary(self, source: Picture, recipe: Recipe, watch: Watch) -> list[Picture]:
        """Return a variation of the source for each seed; blocks until they are there.

        Raises:
            ModelFailed: If the model failed; the engine goes on with other jobs.
            ReduxqError: What ``watch.check`` raised; it is asked before each step.
        """
        work = _Work(source, recipe, watch)
        self._inbox.put(work)
        return work.pictures.result()

    def _run_or_die(self) -> None:
        """Run; without its engine the process could only renew leases for ever, so it ends and loses them."""
        try:
            self._run()
        except BaseException:
            log.exception("the engine died, and the worker with it")
            raise
        finally:
            if self._active:
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

    def _tick(self, work: _Work) -> None:
        """Take one step of one job and let it leave if that was its last."""
        try:
            work.watch.check()
            pictures = self._advance(work)
        except ReduxqError as error:
            self._leave(work).set_exception(error)
        except Exception as error:
            log.exception("the model failed")
            failure = ModelFailed(f"{ModelFailed.__doc__} {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._leave(work).set_exception(failure)
        else:
            if pictures is not None:
                self._leave(work).set_result(pictures)

    def _advance(self, work: _Work) -> list[Picture] | None:
        if work.denoising is None:
            work.denoising = self._model.begin(self._model.condition(work.source), work.recipe)
        self._model.advance(work.denoising)
        work.watch.tell(work.denoising.step, work.denoising.steps)
        return self._model.decode(work.denoising) if work.denoising.finished else None

    def _leave(self, work: _Work) -> "Future[list[Picture]]":
        self._active.remove(work)
        return work.pictures
