from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.settings import WorkerSettings
from shared.sizes import Size
from shared.turns import LOW_PATIENCE, PATIENCE, SPARE
from tests.bench.deadlines import WAYS, measure
from worker.policy import SHARE, Flight, pick

SMALL, LARGE = Size(512, 512), Size(1024, 1024)
STEP = {SMALL: 25.0, LARGE: 79.0}  #: TFLOP
NOW, SPEED = 1000.0, 790.0


def flight(
    size: Size = SMALL, *, rows: int = 1, done: int = 0, steps: int = 10, waited: float = 0.0, idle: float = 0.0
) -> Flight:
    """A job whose rows have done as many of their steps, and decode for nothing."""
    work = rows * STEP[size]
    came, served = NOW - waited, NOW - min(idle, waited)
    return Flight(size, rows, STEP[size], (steps - done) * work, steps * work, came, came, served)


def eight(size: Size) -> int:
    return 8 if size == SMALL else 2


def chosen(flights: Sequence[Flight], speed: float = SPEED) -> list[tuple[int, int]]:
    return pick(flights, now=NOW, speed=speed, call_rows=eight)


def most_in_time(flights: Sequence[Flight], now: float) -> int:
    """How many jobs can be in time together, found by trying every set of them."""

    def can(some: Sequence[Flight]) -> bool:
        end = now
        for each in sorted(some, key=lambda each: each.arrived + PATIENCE * each.total / SPEED):
            end += each.left / SPEED
            if end > each.arrived + PATIENCE * each.total / SPEED + 1e-6:
                return False
        return True

    return max(count for count in range(len(flights) + 1) if any(map(can, combinations(flights, count))))


FLIGHTS = st.lists(
    st.builds(
        flight,
        st.sampled_from([SMALL, LARGE]),
        rows=st.integers(1, 4),
        done=st.integers(0, 9),
        steps=st.integers(10, 50),
        waited=st.floats(0, 20),
        idle=st.floats(0, 20),
    ),
    min_size=1,
    max_size=6,
)
FRESH = st.lists(
    st.builds(flight, st.sampled_from([SMALL, LARGE]), rows=st.integers(1, 4), waited=st.floats(0, 10)),
    min_size=1,
    max_size=6,
)


@given(flights=FLIGHTS, speed=st.sampled_from([0.0, 1.0, SPEED]))
@settings(max_examples=300, deadline=None)
def test_a_call_has_one_size_no_row_twice_none_too_many_and_none_that_is_done(
    flights: list[Flight], speed: float
) -> None:
    rows = chosen(flights, speed)
    (size,) = {flights[place].size for place, _ in rows}
    assert 1 <= len(rows) == len(set(rows)) <= eight(size)
    assert all(0 <= row < flights[place].rows for place, row in rows)
    assert chosen(list(flights), speed) == rows


@given(flights=FRESH)
@settings(max_examples=300, deadline=None)
def test_a_call_takes_nobodys_chance_to_be_in_time(flights: list[Flight]) -> None:
    rows = chosen(flights)
    after = [
        each._replace(left=each.left - each.step_work * [who for who, _ in rows].count(place))
        for place, each in enumerate(flights)
    ]
    took = sum(flights[place].step_work for place, _ in rows) / SPEED
    assert most_in_time(after, NOW + took) >= most_in_time(flights, NOW)


def test_the_job_that_is_due_first_leads_with_all_its_rows() -> None:
    first, later = flight(LARGE, steps=8, waited=1), flight(LARGE, steps=8, rows=2, waited=0.5)
    assert chosen([later, first])[0] == (1, 0)
    assert chosen([later, flight(SMALL, rows=4)]) == [(1, row) for row in range(4)]


def test_where_not_all_can_be_in_time_the_longest_waits() -> None:
    long, short = flight(LARGE, rows=4, steps=50, waited=40), [flight(LARGE, steps=50) for _ in range(3)]
    assert most_in_time([long], NOW) == 1
    assert most_in_time([long, *short], NOW) == len(short)
    assert chosen([long, *short])[0] == (1, 0)


def test_of_equal_jobs_the_one_that_came_first_leads_however_many_there_are() -> None:
    waiting = [flight(LARGE, steps=28, waited=0.9 - number / 10) for number in range(9)]
    assert most_in_time(waiting, NOW) < 5
    assert chosen(waiting)[0] == (0, 0)


def test_jobs_that_cannot_be_in_time_go_last_and_the_shortest_of_them_first() -> None:
    late = [flight(steps=50, waited=60), flight(steps=40, waited=60)]
    assert chosen([*late, flight(LARGE, steps=10)])[0] == (2, 0)
    assert chosen(late)[0] == (1, 0)


def test_a_late_job_that_is_all_but_done_goes_first_where_the_others_hardly_notice() -> None:
    nearly = flight(steps=10, done=9, waited=60)
    assert chosen([flight(LARGE, rows=4, steps=50), nearly])[0] == (1, 0)
    assert chosen([flight(LARGE, steps=2), nearly])[0] == (0, 0)


def test_rows_of_others_fill_the_call_up_only_where_those_in_time_can_spare_it() -> None:
    patient, urgent = flight(rows=4, steps=50), flight(rows=4, steps=50, done=40, waited=17.5)
    assert most_in_time([urgent, patient], NOW) == 2
    assert chosen([patient, flight(rows=4, steps=50)]) == [(place, row) for place in range(2) for row in range(4)]
    assert chosen([urgent, patient]) == [(0, row) for row in range(4)]


def test_what_can_be_spared_is_given_away_once() -> None:
    slack = 1.2 * STEP[SMALL] / SPARE
    tight = flight(steps=50, waited=(2 * 50 * STEP[SMALL] - slack) / SPEED)
    assert chosen([tight, flight(steps=200), flight(steps=200)]) == [(0, 0), (1, 0)]


def test_jobs_that_are_all_late_fill_the_call_up_as_they_like() -> None:
    late = [flight(rows=3, steps=50, waited=90) for _ in range(3)]
    assert len(chosen(late)) == eight(SMALL)


@pytest.mark.parametrize("count", [2, 9])
def test_a_job_passed_over_for_long_leads_with_one_row(count: int) -> None:
    limit = count * STEP[LARGE] / SPEED / SHARE
    others = [flight(steps=10) for _ in range(count - 1)]
    passed_over = flight(LARGE, rows=4, steps=50, waited=90, idle=limit + 0.01)
    assert chosen([*others, passed_over]) == [(count - 1, 0)]
    assert chosen([*others, passed_over._replace(served=NOW - limit + 0.01)])[0] != (count - 1, 0)


def test_a_stream_of_previews_does_not_keep_a_normal_job_for_ever() -> None:
    normal, now, previews = flight(LARGE, rows=1, steps=28, waited=0, idle=0), NOW, 0
    while normal.left > 0:
        preview = flight(steps=4)._replace(arrived=now, entered=now, served=now)
        while preview.left > 0 < normal.left:
            rows = pick([normal, preview], now=now, speed=SPEED, call_rows=eight)
            now += len(rows) * [normal, preview][rows[0][0]].step_work / SPEED
            if rows[0][0] == 0:
                normal = normal._replace(left=normal.left - normal.step_work, served=now)
            else:
                preview = preview._replace(left=preview.left - preview.step_work, served=now)
        previews += 1
    assert previews > 100
    assert (now - NOW) < 25 * normal.total / SPEED


def test_nothing_starves_behind_a_stream_of_jobs_that_could_be_in_time() -> None:
    now, longest, others = 0.0, 0.0, 4
    late = flight(LARGE, rows=4, steps=50)._replace(arrived=-1000.0, entered=-1000.0, served=0.0)
    for _ in range(2000):
        fresh = [flight()._replace(arrived=now, entered=now, served=now) for _ in range(others)]
        rows = pick([*fresh, late], now=now, speed=SPEED, call_rows=eight)
        now += sum(STEP[LARGE if place == others else SMALL] for place, _ in rows) / SPEED
        if rows[0] == (others, 0):
            longest = max(longest, now - late.served)
            late = late._replace(served=now)
    call = STEP[LARGE] / SPEED
    assert now - late.served < longest < (others + 1) * call / SHARE + 2 * call


def test_a_normal_job_leads_though_low_ones_came_first_and_have_been_begun() -> None:
    low = [flight(LARGE, steps=28, done=done, waited=9)._replace(patience=LOW_PATIENCE) for done in (27, 0)]
    normal = flight(LARGE, rows=4, steps=50)
    assert chosen([*low, normal])[0] == (2, 0)
    assert chosen(low)[0] == (0, 0)
    small = flight(rows=2, steps=28)
    assert chosen([small._replace(patience=LOW_PATIENCE), small]) == [(1, 0), (1, 1)]


def test_a_stream_of_normal_jobs_does_not_keep_a_low_one_for_ever() -> None:
    low, now, others = flight(LARGE, steps=28)._replace(patience=LOW_PATIENCE), NOW, 0
    while low.left > 0:
        normal = flight(LARGE, steps=28)._replace(arrived=now, entered=now, served=now)
        while normal.left > 0 < low.left:
            lead, _ = pick([low, normal], now=now, speed=SPEED, call_rows=lambda _: 1)[0]
            now += STEP[LARGE] / SPEED
            if lead == 0:
                low = low._replace(left=low.left - low.step_work, served=now)
            else:
                normal = normal._replace(left=normal.left - normal.step_work, served=now)
        others += 1
    assert others > 10
    assert now - NOW <= LOW_PATIENCE * low.total / SPEED


def test_before_anything_is_measured_the_shorter_job_leads_and_then_the_one_that_came_first() -> None:
    waiting = [flight(LARGE, waited=9), flight(waited=5), flight(waited=3)]
    assert chosen(waiting, speed=0.0)[0] == (1, 0)


def test_a_simulation_has_more_jobs_in_time_than_with_the_shortest_first_and_far_more_than_with_the_oldest() -> None:
    """One fixed draw; ``tests.bench.deadlines`` has the average of many."""
    tokens = WorkerSettings.model_fields["call_tokens"].default
    by = {name: measure(way, 0.8, [5, 6], 500, tokens) for name, way in WAYS.items() if "4" not in name}
    service, engine, shortest, oldest = by.values()
    assert service.in_time >= 0.95
    assert abs(engine.in_time - service.in_time) < 0.02
    assert service.in_time > shortest.in_time + 0.01
    assert service.in_time > oldest.in_time + 0.3
    assert service.idle < shortest.idle


def test_a_job_that_is_next_anyway_takes_all_its_rows_however_long_it_had_to_wait() -> None:
    alone = flight(rows=4, done=5, waited=1000, idle=1000)
    assert chosen([alone]) == [(0, 0), (0, 1), (0, 2), (0, 3)]
