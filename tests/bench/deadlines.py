"""How many jobs the engine's policy brings in on time, beside the oldest first and the shortest first: a simulation.

One engine, all jobs in it, virtual time. Jobs arrive at random (Poisson) and are drawn evenly from the 22 sizes, 4 to
50 steps and 1 to 4 variations; all rules see the same arrivals. A call takes its work at the H200's measured pace, so
larger calls gain nothing here, and nothing interrupts it. A job is in time if it takes at most three times as long as
it would alone. The first two tables are about one load; the curves go to docs/engine-deadlines.svg. Run by
``make bench``.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from shared.cost import decode_teraflops, step_teraflops
from shared.settings import JobsSettings, WorkerSettings
from shared.sizes import AspectRatio, Megapixels, Size, size_of
from worker.policy import PATIENCE, Flight, pick

SPEED = 790.0  #: TFLOP/s in bfloat16, measured on an H200
SIZES = [size_of(aspect_ratio, megapixels) for aspect_ratio in AspectRatio for megapixels in Megapixels]
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  #: work that arrives in a second / SPEED
PLOT = Path(__file__).parents[2] / "docs" / "engine-deadlines.svg"

Choice = list[tuple[int, int]]
Rule = Callable[[Sequence[Flight], float, Callable[[Size], int]], Choice]


@dataclass(eq=False)
class Job:
    """One job, and what became of it."""

    size: Size
    steps: int
    rows: list[int]  #: steps done of each variation that needs more
    arrived: float = 0.0
    served: float = 0.0
    idle: float = 0.0  #: longest time without a step
    ended: float = 0.0
    total: float = field(init=False)
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.step, self.decode = step_teraflops(self.size), decode_teraflops(self.size)
        self.total = self.left = len(self.rows) * (self.steps * self.step + self.decode)

    @property
    def flight(self) -> Flight:
        return Flight(self.size, len(self.rows), self.step, self.left, self.total, self.arrived, self.served)

    @property
    def slowdown(self) -> float:
        return (self.ended - self.arrived) / (self.total / SPEED)

    @property
    def in_time(self) -> bool:
        return self.slowdown <= PATIENCE


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


def simulate(jobs: list[Job], rule: Rule, call_tokens: int) -> None:
    """Run the jobs, sorted by arrival, to their ends."""
    now, to_come, here = 0.0, list(reversed(jobs)), list[Job]()
    while to_come or here:
        now = now if here else to_come[-1].arrived
        while to_come and to_come[-1].arrived <= now:
            here.append(to_come.pop())
        chosen = rule([job.flight for job in here], now, lambda size: call_tokens // size.tokens)
        for place, row in chosen:
            here[place].rows[row] += 1
        served = {place: here[place] for place, _ in chosen}.values()
        before = sum(job.left for job in served)
        for job in served:
            job.rows = [done for done in job.rows if done < job.steps]
            job.left = sum((job.steps - done) * job.step + job.decode for done in job.rows)
        now += (before - sum(job.left for job in served)) / SPEED
        for job in served:
            job.idle = max(job.idle, now - job.served)
            job.served = job.ended = now
        here = [job for job in here if job.rows]


def ours(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return pick(flights, now=now, speed=SPEED, call_rows=call_rows)


def oldest_first(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return whole(flights, min(range(len(flights)), key=lambda place: flights[place].arrived), call_rows)


def shortest_first(flights: Sequence[Flight], now: float, call_rows: Callable[[Size], int]) -> Choice:
    return whole(flights, min(range(len(flights)), key=lambda place: flights[place].left), call_rows)


def whole(flights: Sequence[Flight], place: int, call_rows: Callable[[Size], int]) -> Choice:
    """All rows of a job, as far as a call takes them."""
    return [(place, row) for row in range(min(flights[place].rows, call_rows(flights[place].size)))]


RULES: dict[str, Rule] = {"ours": ours, "shortest first": shortest_first, "oldest first": oldest_first}


def measure(rule: Rule, load: float, seeds: Iterable[int], count: int, call_tokens: int) -> Figures:
    """Run ``count`` jobs for each seed and put them all together."""
    jobs: list[Job] = []
    for seed in seeds:
        drawn = arrivals(seed, load, count)
        simulate(drawn, rule, call_tokens)
        jobs += drawn
    limit = JobsSettings.model_fields["preview_teraflops"].default
    slowdowns = [job.slowdown for job in jobs]
    return Figures(
        statistics.fmean(job.in_time for job in jobs),
        statistics.fmean(job.in_time for job in jobs if job.total <= limit),
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
    print(f"{asked.seeds} x {asked.jobs} jobs at load {asked.load}, calls of at most {tokens} image tokens")
    table("rule", {name: measure(rule, asked.load, seeds, asked.jobs, tokens) for name, rule in RULES.items()})
    sizes = {f"ours, {most:,}": measure(ours, asked.load, seeds, asked.jobs, most) for most in (4096, 16_384)}
    table("image tokens a call", sizes)
    curves = {
        name: [measure(rule, load, seeds, asked.jobs // 4, tokens).in_time for load in LOADS]
        for name, rule in RULES.items()
    }
    print("\n| in time at load |", " | ".join(f"{load:.1f}" for load in LOADS), "|")
    print("|---|" + "--:|" * len(LOADS))
    for name, shares in curves.items():
        print(f"| {name} |", " | ".join(f"{share:.1%}" for share in shares), "|")
    PLOT.write_text(plot(curves))


if __name__ == "__main__":
    main()
