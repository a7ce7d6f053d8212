"""The engine: one thread that owns the model and advances trajectories, call by call.

A job becomes one trajectory for each variation. Which of them share the next call :mod:`worker.policy` says; they join
and leave between calls, so a cancel takes effect within one call and a preview need not wait for what runs.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Final, TypeVar

import structlog

from shared.clock import Clock
from shared.errors import ReduxqError, ShuttingDown
from shared.heartbeat import Beat, still
from shared.images import Source
from shared.jobs import Recipe
from shared.sizes import Size
from shared.turns import take_turns
from worker import metrics
from worker.accounting import Accounts
from worker.policy import pick
from worker.work import Model, OutOfMemory, Trajectory, Varied, Watch, Work

log = structlog.get_logger(__name__)

Made = TypeVar("Made")

LOOK: Final = 0.5  #: seconds between two looks at whether the engine still makes calls
SHORTAGE: Final = 600.0  #: seconds for which a size has fewer rows in a call after the device's memory ran out


class _Silence:
    """How long nothing was heard of something, in seconds."""

    seconds = 0.0


class Engine:
    """Runs the model for all jobs of this worker.

    A model that fails in a way it does not know itself, twice in the same kind of call without a success between, ends
    the process: a device whose context is broken (CUDA's illegal memory access) fails every later job too.

    Args:
        model: Makes the variations.
        clock: Tells whose turn it is.
        stall: With work and without a call's end for so long, the engine ends the process.
        call_tokens: Image tokens that share a call at most; one picture may have more.
        beat: Called again and again while the engine lives and does not hang.
    """

    def __init__(self, model: Model, clock: Clock, stall: timedelta, call_tokens: int, beat: Beat = still) -> None:
        self._model = model
        self._clock = clock
        self._stall = stall.total_seconds()
        self._call_tokens = call_tokens
        self._beat = beat
        self._fits: dict[Size, tuple[int, float]] = {}  #: rows that the memory allowed, and until when, monotonic
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()
        self._works: list[Work] = []
        self._accounts = Accounts(model)
        self.seconds_left = 0.0  #: until the jobs are done that were here at the last call
        self._closes = math.inf  #: monotonic; what cannot be done by then is not begun or continued
        self._own = _Silence()  #: while there is work
        self._beside = set[_Silence]()  #: what jobs' threads do that belongs to the model
        self._calls = 0
        self._doing = ""  #: the kind of call that the engine made last
        self._failures = Counter[str]()  #: of the model, unexpected, since the last success, by kind of call
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

    def close(self, seconds: float) -> None:
        """From now on, let jobs go that the engine will not be through with in so many seconds."""
        self._closes = self._clock.monotonic() + seconds

    def vary(self, source: Source, recipe: Recipe, watch: Watch) -> Varied:
        """Return a variation of the source for each seed; blocks until they are there.

        Raises:
            ShuttingDown: If it would take longer than the engine still has.
            ReduxqError: What ``watch.check`` raised, which is asked before each call, or the model itself.
            Exception: Whatever else the model raised; the engine goes on with other jobs.
        """
        with self.watched():
            prepared = self._model.prepare(source, recipe)
        work = Work(prepared, recipe, watch, self._clock.monotonic())
        self._inbox.put(work)
        try:
            made = work.done.result()
            with self.watched():
                pictures = [picture() for picture in made]
            self._accounts.settle()  # to make a picture of a copy takes longer than what comes behind the copy
            return Varied(pictures, work.spent.seconds)
        finally:
            work.drop()

    @property
    def speed(self) -> float:
        """TFLOP/s of the last steps; 0 before the first."""
        return self._accounts.speed

    @property
    def silence(self) -> float:
        """Seconds for which it has had work and made no call."""
        return self._own.seconds

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End the process if the block hangs, as if a call of the model did."""
        self._beside.add(silence := _Silence())
        try:
            yield
        finally:
            self._beside.discard(silence)

    def _run_or_die(self) -> None:
        """Run; without its engine the process could only renew leases for ever, so it ends and loses them."""
        try:
            self._run()
        except BaseException:
            log.exception("the engine died, and the worker with it")
            os._exit(1)

    def _watch(self) -> None:
        """End the process when the engine stalls; looks are counted, so that a frozen process is not a stalled one."""
        seen = self._calls
        while not self._clock.wait(self._stopped, LOOK):
            if not self._works or self._calls != seen:
                self._own.seconds, seen = 0.0, self._calls
            for silence in (self._own, *self._beside):
                silence.seconds += LOOK
                if silence.seconds >= self._stall:
                    log.critical("the engine hangs, and the worker ends", seconds_without_a_step=silence.seconds)
                    os._exit(1)
            self._beat()

    def _run(self) -> None:
        while self._admit():
            self._call()
            self._calls += 1
            self._accounts.settle()
            self._tell()

    def _admit(self) -> bool:
        """Take what was given, waiting for it if there is nothing else to do; False if no more will come."""
        while not self._works or not self._inbox.empty():
            work = self._inbox.get()
            if work is None:
                self._inbox.put(None)
                break
            self._works.append(work)
        return bool(self._works)

    def _call(self) -> None:
        """Make one call of the model for the jobs whose turn it is."""
        for work in list(self._works):
            try:
                work.watch.check()
            except ReduxqError as error:
                self._leave(work, error.with_traceback(None))
        if self._closes < math.inf:
            self._let_go()
        if self._works:
            self._advance({work: places for work, places in self._choose().items() if self._begin(work)})

    def _let_go(self) -> None:
        """Let the jobs go for which there is no time left."""
        flights, now, end = [work.flight() for work in self._works], self._clock.monotonic(), 0.0
        order = take_turns(flights, now=now, speed=self.speed).order
        for work, left in [(self._works[place], flights[place].left) for place in order]:
            if end + left > (self._closes - now) * self.speed:
                self._leave(work, ShuttingDown())
            else:
                end += left

    def _choose(self) -> dict[Work, list[int]]:
        """Return whose turn it is: jobs, with the places of their rows."""
        flights = [work.flight() for work in self._works]
        now, chosen = self._clock.monotonic(), dict[Work, list[int]]()
        for place, row in pick(flights, now=now, speed=self.speed, call_rows=self._call_rows):
            work = self._works[place]
            chosen.setdefault(work, []).append(work.open[row])
        return chosen

    def _call_rows(self, size: Size) -> int:
        """Return how many trajectories of a size may share a call."""
        fits, until = self._fits.get(size, (0, 0.0))
        return fits if self._clock.monotonic() < until else max(1, self._call_tokens // size.tokens)

    def _begin(self, work: Work) -> bool:
        """Give a job its trajectories, unless it has them; False, and the job has left, if that failed."""
        if work.rows:
            return True
        with self._blamed_on(work):
            work.rows = self._make("begin", {work: work.open}, partial(self._model.begin, work.prepared))
            work.prepared = None
            return True
        return False

    def _advance(self, chosen: dict[Work, list[int]]) -> None:
        """Take a step with the chosen rows; when that fails, job by job, to find whose fault it is."""
        rows = [work.rows[place] for work, places in chosen.items() for place in places]
        alone: list[dict[Work, list[int]]] = []
        try:
            if rows:
                self._step(chosen, rows)
        except OutOfMemory as error:
            if len(rows) == 1:
                self._fail(next(iter(chosen)), error)
            most = max(1, len(rows) // 2)
            self._fits[rows[0].size] = most, self._clock.monotonic() + SHORTAGE
            log.warning("too little memory on the device", rows=len(rows), most_for_a_while=most, size=rows[0].size)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits for the job is told
            if len(chosen) > 1:
                alone = [{work: places} for work, places in chosen.items()]
            else:
                self._fail(next(iter(chosen)), error)
        for each in alone:
            self._advance(each)

    def _step(self, chosen: dict[Work, list[int]], rows: list[Trajectory]) -> None:
        """Take a step with these rows, decode those that are through, and let jobs leave that are done."""
        self._make("step", chosen, partial(self._model.advance, rows))
        for work, places in chosen.items():
            work.served = self._clock.monotonic()
            work.watch.tell([row.step for row in work.rows], work.recipe.num_inference_steps)
            self._decode(work, [place for place in places if work.rows[place].step == work.rows[place].steps])

    def _decode(self, work: Work, places: list[int]) -> None:
        """Decode the rows at these places, which are through; with its last the job leaves."""
        with self._blamed_on(work):
            for place in places:
                decode = partial(self._model.decode, work.rows[place])
                work.pictures.append(self._make("decode", {work: [place]}, decode))
            if not work.open:
                self._leave(work)

    def _make(self, kind: str, chosen: Mapping[Work, Sequence[int]], call: Callable[[], Made]) -> Made:
        """Make a call of the model for these jobs, with the places of their rows."""
        self._doing = kind
        made = self._accounts.measured(chosen, call, is_step=kind == "step")
        self._failures[kind] = 0
        return made

    @contextmanager
    def _blamed_on(self, work: Work) -> Iterator[None]:
        """Let the job leave if the block fails."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, who waits for the job is told
            self._fail(work, error)

    def _fail(self, work: Work, error: Exception) -> None:
        """Let a job leave whose model failed."""
        if not isinstance(error, ReduxqError | OutOfMemory):
            self._failures[self._doing] += 1
            if self._failures[self._doing] > 1:
                log.critical("the model failed twice in a row, and the worker ends", error=repr(error))
                os._exit(1)
        self._leave(work, error)

    def _leave(self, work: Work, error: Exception | None = None) -> None:
        self._works.remove(work)
        if error:
            work.done.set_exception(error)
        else:
            work.done.set_result(work.pictures)

    def _tell(self) -> None:
        """Say how much there is left to do."""
        left = sum(work.left for work in self._works)
        self.seconds_left = left / self.speed if self.speed else math.inf if left else 0.0
        metrics.jobs(begun=sum(bool(work.rows) for work in self._works), all_of_them=len(self._works))
