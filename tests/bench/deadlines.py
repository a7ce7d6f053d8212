"""How many jobs are in time, beside the oldest first and the shortest first: a simulation in virtual time.

Dispatcher and engine decide by the code that ships, ``api/dispatch_policy.py`` and ``worker/policy.py``; a worker takes
jobs when the real one does, at once. The other rules have one engine with all jobs in it. Jobs arrive at random
(Poisson) and are drawn evenly from the 22 sizes, 4 to 50 steps and 1 to 4 variations; all rules see the same arrivals.
A call takes its work at the pace measured on an H200, so larger calls gain nothing here, and nothing stops it. A job is
in time if it takes at most three times as long as it would alone. The tables are about one load; the curves go to
docs/engine-deadlines.svg. Run by ``make bench``.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from random import Random
from typing import NamedTuple

from api.dispatch_policy import KEPT, Busy, Room, choose
from shared.cost import decode_teraflops, step_teraflops
from shared.dispatch_store import Shares, UnderWay, Waiting
from shared.ids import JobId, TeamId
from shared.job_index import Queue
from shared.jobs import Lane
from shared.settings import DispatcherSettings, JobsSettings, WorkerSettings
from shared.sizes import AspectRatio, Megapixels, Size, size_of
from shared.turns import PATIENCE
from worker.app import LEAD
from worker.policy import Flight, pick

SPEED = 790.0  #: TFLOP/s in bfloat16, measured on an H200
SIZES = [size_of(aspect_ratio, megapixels) for aspect_ratio in AspectRatio for megapixels in Megapixels]
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  #: work that arrives in a second / SPEED
PLOT = Path(__file__).parents[2] / "docs" / "engine-deadlines.svg"

SETTINGS = WorkerSettings()
PREVIEW = JobsSettings().preview_teraflops
QUEUES = {quick: Queue(Lane.PREVIEW if quick else Lane.NORMAL, TeamId("team")) for quick in (True, False)}

Choice = list[tuple[int, int]]
Rule = Callable[[Sequence[Flight], float, Callable[[Size], int]], Choice]


@dataclass(eq=False)
class Job:
    """One job, and what became of it."""

    size: Size
    steps: int
    rows: list[int]  #: steps done of each variation that needs more
    arrived: float = 0.0
    entered: float = 0.0  #: an engine
    served: float = 0.0
    ahead: bool = False  #: whether it came to go ahead of others
    idle: float = 0.0  #: longest time without a step
    ended: float = 0.0
    total: float = field(init=False)
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.step, self.decode = step_teraflops(self.size), decode_teraflops(self.size)
        self.total = self.left = len(self.rows) * (self.steps * self.step + self.decode)

    @property
    def flight(self) -> Flight:
        entered = max(self.arrived, self.entered)
        return Flight(self.size, len(self.rows), self.step, self.left, self.total, self.arrived, entered, self.served)

    @property
    def slowdown(self) -> float:
        return (self.ended - self.arrived) / (self.total / SPEED)

    @property
    def in_time(self) -> bool:
        return self.slowdown <= PATIENCE


class Way(NamedTuple):
    """How to run jobs."""

    run: Callable[[list[Job], int], None]  #: with so many image tokens in a call
    workers: int = 1


class Figures(NamedTuple):
    """What a rule made of the jobs."""

    in_time: float  #: share of the jobs
    previews: float  #: the same among jobs that count as previews
    mean: float  #: slowdown
    p99: float  #: slowdown
    idle: float  #: seconds, the longest that a job was without a step


def arrivals(seed: int, load: float, count: int) -> list[Job]:
    """Draw the jobs; apart from when they come, they depend on the seed alone."""
    random = Random(seed)
    jobs = [Job(random.choice(SIZES), random.randint(4, 50), [0] * random.randint(1, 4)) for _ in range(count)]
    between = statistics.fmean(job.total for job in jobs) / SPEED / load
    now = 0.0
    for job in jobs:
        now += random.expovariate(1 / between)
        job.arrived = job.served = now
    return jobs


class Engine:
    """One engine and the jobs that it has."""

    def __init__(self, rule: Rule, call_tokens: int) -> None:
        self.here: list[Job] = []
        self.until = 0.0  #: end of the call that it makes
        self._rule = rule
        self._call_tokens = call_tokens

    def call(self, now: float) -> None:
        """Make a call, of which the jobs see the end at once."""
        chosen = self._rule([job.flight for job in self.here], now, lambda size: self._call_tokens // size.tokens)
        for place, row in chosen:
            self.here[place].rows[row] += 1
        served = {place: self.here[place] for place, _ in chosen}.values()
        before = sum(job.left for job in served)
        for job in served:
            job.rows = [done for done in job.rows if done < job.steps]
            job.left = sum((job.steps - done) * job.step + job.decode for done in job.rows)
        self.until = now + (before - sum(job.left for job in served)) / SPEED
        for job in served:
            job.idle = max(job.idle, self.until - job.served)
            job.served = job.ended = self.until
        self.here = [job for job in self.here if job.rows]

    @property
    def in_slots(self) -> int:
        return max(sum(not job.ahead for job in self.here), int(any(job.total > PREVIEW for job in self.here)))

    def takes_next(self) -> bool:
        return self.in_slots < SETTINGS.slots and sum(job.left for job in self.here) / SPEED <= LEAD

    def room_ahead(self) -> int:
        return max(0, SETTINGS.ahead - sum(job.ahead for job in self.here))


class Service:
    """Dispatcher and workers."""

    def __init__(self, workers: int, call_tokens: int) -> None:
        self.engines = [Engine(ours, call_tokens) for _ in range(workers)]
        self._waiting: dict[JobId, Job] = {}
        self._shares = Shares(0, {})

    def take(self, now: float, jobs: Iterable[Job]) -> None:
        """Accept jobs, and give workers what they take."""
        for job in jobs:
            self._waiting[JobId(str(id(job)))] = job
        while self._waiting and self._round(now):
            pass

    def _round(self, now: float) -> bool:
        room = Room(
            sum(engine.takes_next() for engine in self.engines),
            sum(engine.room_ahead() for engine in self.engines),
            len(self.engines) * SETTINGS.ahead // KEPT,
        )
        shown = [(job_id, job, job.total <= PREVIEW) for job_id, job in self._waiting.items()]
        plan = choose(
            [Waiting(each, QUEUES[quick], int(job.arrived * 1e6), ceil(job.total)) for each, job, quick in shown],
            self._shares,
            room=room,
            now_us=int(now * 1e6),
            ageing=DispatcherSettings.model_fields["ageing_seconds"].default,
            busy=Busy([_under_way(job) for engine in self.engines for job in engine.here], SPEED, len(self.engines)),
        )
        self._shares = plan.shares
        for each in plan.jobs:
            job = self._waiting.pop(each.job_id)
            job.ahead, job.entered, job.served = each.job_id in plan.ahead, now, now
            free = [engine for engine in self.engines if (engine.room_ahead() if job.ahead else engine.takes_next())]
            min(free, key=lambda engine: len(engine.here)).here.append(job)
        return bool(plan.jobs)


def _under_way(job: Job) -> UnderWay:
    return UnderWay(Lane.NORMAL, int(job.arrived * 1e6), ceil(job.total), job.left, job.ahead)


def serve(jobs: list[Job], workers: int, call_tokens: int) -> None:
    """Run the jobs, sorted by arrival, as the service does."""
    service, to_come = Service(workers, call_tokens), list(reversed(jobs))
    while to_come or any(engine.here for engine in service.engines):
        busy = [engine.until for engine in service.engines if engine.here]
        now = min(busy + [job.arrived for job in to_come[-1:]])
        arrived = []
        while to_come and to_come[-1].arrived <= now:
            arrived.append(to_come.pop())
        service.take(now, arrived)
        for engine in service.engines:
            if engine.here and engine.until <= now:
                engine.call(now)
        service.take(now, [])


def simulate(jobs: list[Job], rule: Rule, call_tokens: int) -> None:
    """Run the jobs, sorted by arrival, in one engine that has all of them."""
    engine, to_come = Engine(rule, call_tokens), list(reversed(jobs))
    while to_come or engine.here:
        now = engine.until if engine.here else max(engine.until, to_come[-1].arrived)
        while to_come and to_come[-1].arrived <= now:
            engine.here.append(to_come.pop())
        engine.call(now)


def ours(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return pick(flights, now=now, speed=SPEED, call_rows=call_rows)


def oldest_first(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return whole(flights, min(range(len(flights)), key=lambda place: flights[place].arrived), call_rows)


def shortest_first(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return whole(flights, min(range(len(flights)), key=lambda place: flights[place].left), call_rows)


def whole(flights: Sequence[Flight], place: int, call_rows: Callable[[Size], int]) -> Choice:
    """All rows of a job, as far as a call takes them."""
    return [(place, row) for row in range(min(flights[place].rows, call_rows(flights[place].size)))]


def alone(rule: Rule) -> Way:
    """One engine that has all jobs and this rule."""
    return Way(lambda jobs, call_tokens: simulate(jobs, rule, call_tokens))


def service(workers: int) -> Way:
    """The service with so many workers."""
    return Way(lambda jobs, call_tokens: serve(jobs, workers, call_tokens), workers)


WAYS = {
    "ours": service(1),
    "ours, 4 workers": service(4),
    "ours, one engine that has all jobs": alone(ours),
    "shortest first": alone(shortest_first),
    "oldest first": alone(oldest_first),
}
PLOTTED = ("ours", "shortest first", "oldest first")


def measure(way: Way, load: float, seeds: Iterable[int], count: int, call_tokens: int) -> Figures:
    """Run ``count`` jobs a worker for each seed and put them all together."""
    jobs: list[Job] = []
    for seed in seeds:
        drawn = arrivals(seed, load * way.workers, count * way.workers)
        way.run(drawn, call_tokens)
        jobs += drawn
    slowdowns = [job.slowdown for job in jobs]
    return Figures(
        statistics.fmean(job.in_time for job in jobs),
        statistics.fmean(job.in_time for job in jobs if job.total <= PREVIEW),
        statistics.fmean(slowdowns),
        statistics.quantiles(slowdowns, n=100)[98],
        max(job.idle for job in jobs),
    )


def table(title: str, rows: dict[str, Figures]) -> None:
    print(f"\n| {title} | in time | of the previews | slowdown, mean | p99 | longest without a step |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, it in rows.items():
        print(f"| {name} | {it.in_time:.1%} | {it.previews:.1%} | {it.mean:.2f} | {it.p99:.1f} | {it.idle:.0f} s |")


#: Each curve's colour and dashes, and how much lower its name stands, so that names do not touch.
STYLE = {
    "ours": ("#1a8f4a", "", 0.0),
    "shortest first": ("#3b7fd0", "7 4", 0.04),
    "oldest first": ("#d0563b", "2 4", 0.01),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 60, 120, 36, 48


def plot(curves: dict[str, list[float]]) -> str:
    """Draw the share of jobs in time against the load; middle tones, for light and dark pages alike."""

    def at(load: float, share: float) -> str:
        across = (load - LOADS[0]) / (LOADS[-1] - LOADS[0])
        return f"{LEFT + across * (WIDTH - LEFT - RIGHT):.1f},{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"

    def text(where: str, words: str, more: str) -> str:
        x, y = where.split(",")
        return f'<text x="{x}" y="{y}" {more}>{words}</text>'

    def line(begin: str, end: str) -> str:
        return f'<path d="M{begin} L{end}" stroke="#777" stroke-opacity=".35"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="none">',
        "<style>text { font: 13px system-ui, sans-serif }</style>",
        "<title>Share of jobs in time against the load of the engine</title>",
        text(f"{LEFT},20", "jobs in time: done within three times what they take alone", 'fill="#777"'),
        text(at(0.8, -0.14), "load of the engine", 'fill="#777" text-anchor="middle"'),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
        parts.append(line(at(LOADS[0], share), at(LOADS[-1], share)))
        if share < 1:
            parts.append(text(at(LOADS[0] - 0.01, share - 0.015), f"{share:.0%}", 'fill="#777" text-anchor="end"'))
    parts += [text(at(load, -0.07), f"{load:.1f}", 'fill="#777" text-anchor="middle"') for load in LOADS]
    for name, shares in curves.items():
        colour, dashes, lower = STYLE[name]
        points = " L".join(at(load, share) for load, share in zip(LOADS, shares, strict=True))
        parts.append(f'<path d="M{points}" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>')
        parts.append(text(at(LOADS[-1] + 0.015, shares[-1] - lower), name, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=0.8, help="of the tables")
    parser.add_argument("--jobs", type=int, default=1000, help="of each run of the tables")
    parser.add_argument("--seeds", type=int, default=8, help="runs whose jobs are put together")
    asked = parser.parse_args()
    seeds, tokens = range(1, asked.seeds + 1), WorkerSettings.model_fields["call_tokens"].default
    print(f"{asked.seeds} x {asked.jobs} jobs a worker at load {asked.load}, calls of at most {tokens} image tokens")
    table("way", {name: measure(way, asked.load, seeds, asked.jobs, tokens) for name, way in WAYS.items()})
    sizes = {f"{most:,}": measure(WAYS["ours"], asked.load, seeds, asked.jobs, most) for most in (4096, 16_384)}
    table("image tokens a call", sizes)
    curves = {
        name: [measure(WAYS[name], load, seeds, asked.jobs // 4, tokens).in_time for load in LOADS] for name in PLOTTED
    }
    print("\n| in time at load |", " | ".join(f"{load:.1f}" for load in LOADS), "|")
    print("|---|" + "--:|" * len(LOADS))
    for name, shares in curves.items():
        print(f"| {name} |", " | ".join(f"{share:.1%}" for share in shares), "|")
    PLOT.write_text(plot(curves))


if __name__ == "__main__":
    main()
