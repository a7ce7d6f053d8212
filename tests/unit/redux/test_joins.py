"""Trajectories that join, leave and end in any order, in calls of any rows, are what they are alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.clock import Clock
from shared.errors import LeaseLost
from shared.jobs import Recipe
from tests.models import Follower
from tests.samples import alike
from tests.servers import wait_until
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import difference, finish, recipe, source, start
from worker.engine import Engine
from worker.policy import Flight
from worker.redux.denoise import Trajectory
from worker.redux.model import ReduxModel

PICTURES = {"beach": beach(), "portrait": portrait()}
Alone = Callable[[str, Recipe], Tensor]  #: final latents of one seed
TOLERANCE = 1e-5  #: float32, where a batch adds in another order than a single row

recipes = st.builds(
    recipe,
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    size=st.sampled_from([(64, 64), (96, 64)]),
    steps=st.integers(1, 3),
    guidance_scale=st.sampled_from([1.0, 4.5]),
)


@dataclass(frozen=True)
class Job:
    """One of a schedule."""

    picture: str
    recipe: Recipe
    joins: int  #: calls before
    canceled: int  #: calls until then, if it takes so many


@pytest.fixture(scope="module")
def alone(model: ReduxModel) -> Alone:
    @cache
    def latents(picture: str, wish: Recipe) -> Tensor:
        [row] = finish(model, PICTURES[picture], wish)
        return row.latents

    return latents


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.builds(Job, st.sampled_from(sorted(PICTURES)), recipes, st.integers(0, 4), st.integers(1, 12)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 2**32),
)
def test_any_schedule_makes_what_each_trajectory_makes_alone(
    model: ReduxModel, alone: Alone, jobs: list[Job], choice: int
) -> None:
    going: dict[int, list[Trajectory]] = {}
    finished: dict[int, list[Trajectory]] = {}
    random, call = Random(choice), 0
    while call <= max(job.joins for job in jobs) or going:
        for place, job in enumerate(jobs):
            if job.joins == call and job.canceled > call:
                going[place] = start(model, PICTURES[job.picture], job.recipe)
            if job.canceled == call:
                going.pop(place, None)
        _advance_some(model, [row for rows in going.values() for row in rows if row.step < row.steps], random)
        for place in [place for place, rows in going.items() if all(row.step == row.steps for row in rows)]:
            finished[place] = going.pop(place)
        call += 1
    for place, rows in finished.items():
        picture, wish = jobs[place].picture, jobs[place].recipe
        for row, seed in zip(rows, wish.seeds, strict=True):
            assert difference(alone(picture, wish._replace(seeds=(seed,))), row.latents) < TOLERANCE


def _advance_some(model: ReduxModel, rows: list[Trajectory], random: Random) -> None:
    """Advance some of the rows of one size, in any order."""
    if rows:
        size = random.choice(rows).size
        fitting = [row for row in rows if row.size == size]
        model.advance(random.sample(fitting, random.randint(1, len(fitting))))


def test_the_engine_makes_of_each_job_what_it_makes_alone(model: ReduxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are all there at once, two of them canceled under way; any of one size share a call."""
    random, calls, advance = Random(5), list[list[Trajectory]](), model.advance
    small, large, never = (64, 64), (96, 64), -1  # steps of its own after which a job is canceled
    jobs = [
        ("beach", recipe([1, 2], size=small, steps=2), never),
        ("portrait", recipe([3, 4], size=small, steps=3, guidance_scale=1.0), 2),
        ("portrait", recipe([5, 6], size=large, steps=4), never),
        ("beach", recipe([7], size=small, steps=4, guidance_scale=4.5), never),
        ("beach", recipe([8, 9], size=large, steps=3), 1),
        ("portrait", recipe([1, 2], size=small, steps=2), never),
    ]
    alone = [[model.decode(row)() for row in finish(model, PICTURES[name], wish)] for name, wish, _ in jobs]

    def spied(rows: Sequence[Trajectory]) -> None:
        calls.append(list(rows))
        advance(rows)

    def any_of(flights: Sequence[Flight], **_: object) -> list[tuple[int, int]]:
        size = random.choice(flights).size
        places = [place for place, flight in enumerate(flights) if flight.size == size]
        some = [(place, row) for place in places for row in range(random.randint(0, flights[place].rows))]
        return some or [(places[0], 0)]

    monkeypatch.setattr(model, "advance", spied)
    monkeypatch.setattr("worker.engine.pick", any_of)
    engine = Engine(model, Clock(), timedelta(minutes=1), call_tokens=6 * 16)
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [
            pool.submit(engine.vary, source(PICTURES[name]), wish, Follower(end_at)) for name, wish, end_at in jobs
        ]
        wait_until(lambda: engine._inbox.qsize() == len(jobs))
        engine.start()
        for future, (_, _, end_at), expected in zip(futures, jobs, alone, strict=True):
            if end_at != never:
                assert isinstance(future.exception(60), LeaseLost)
            else:
                assert all(
                    alike([one], [other]) >= 0.999
                    for one, other in zip(future.result(60).pictures, expected, strict=True)
                )
    engine.stop()
    assert max(len({id(row.context) for row in rows}) for rows in calls) > 1
    assert max(map(len, calls)) > 2
