from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.dispatch_policy import Room, choose
from shared.backlog import Backlog, Turn
from shared.dispatch_store import Shares, Waiting
from shared.ids import JobId, TeamId
from shared.job_index import Queue
from shared.jobs import JobRecord, Lane
from tests.samples import record

WORK = record().parameters.work
QUEUES = [Queue(lane, TeamId(team)) for lane in Lane for team in "abc"]
COUNT = st.integers(0, 10_000)
Lengths = dict[Queue, int]


def job_of(queue: Queue) -> JobRecord:
    return record().model_copy(update={"team_id": queue.team_id, "lane": queue.lane})


def seen(lengths: Lengths, **known: float) -> Backlog:
    return Backlog.model_validate({"waiting": {str(each): (n, n * WORK) for each, n in lengths.items()}} | known)


def turns(lengths: Lengths, mine: Queue) -> list[JobId]:
    """The order in which the dispatcher takes these jobs; of those whose turn is the same, mine comes last."""
    waiting = [
        Waiting(JobId(f"{each} {number}"), each, 2 * number + (each == mine), WORK)
        for each, count in lengths.items()
        for number in range(count)
    ]
    room = Room(slots=len(waiting), ahead=0)
    plan = choose(waiting, Shares(0, {}), room=room, now_us=0, ageing=timedelta(minutes=5))
    return [job.job_id for job in plan.jobs]


@given(st.sampled_from(Lane), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_jobs_place_among_equal_ones_is_its_place_in_the_dispatchers_order(
    lane: Lane, counts: list[int], under_way: int
) -> None:
    lengths = {Queue(lane, TeamId(team)): count for team, count in zip("abc", counts, strict=False)}
    for mine, count in lengths.items():
        order = turns(lengths, mine)
        for rank in range(count):
            place = seen(lengths, published=under_way).turn(job_of(mine), rank).position
            assert place == under_way + 1 + order.index(JobId(f"{mine} {rank}"))


@given(st.dictionaries(st.sampled_from(QUEUES), st.integers(1, 7), min_size=1))
@settings(max_examples=100, deadline=None)
def test_a_jobs_place_is_behind_all_lanes_before_its_own_and_before_all_behind_it(lengths: Lengths) -> None:
    order = turns(lengths, QUEUES[0])
    for mine, count in lengths.items():
        lane = [place for place, job_id in enumerate(order, start=1) if job_id.startswith(f"{mine.lane}:")]
        places = [seen(lengths).turn(job_of(mine), rank).position for rank in range(count)]
        assert places == sorted(set(places))
        assert lane[0] <= places[0] <= places[-1] <= lane[-1]


def test_an_estimate_is_the_work_that_goes_first_and_ones_own_by_the_workers_speed() -> None:
    mine, other = Queue(Lane.NORMAL, TeamId("a")), Queue(Lane.NORMAL, TeamId("b"))
    backlog = seen({mine: 4, other: 9}, published=2, running=1, running_work=WORK, workers=2, speed=WORK / 10)
    # Half of what runs, two under way, one of its own and two of the other's, and itself; ten seconds for each.
    assert backlog.turn(job_of(mine), rank=1) == Turn(2 + 1 + 2 + 1, seconds=65.0)
    assert backlog.seconds_left(job_of(mine), done=0.75) == 5.0  # by one worker alone


def test_a_job_that_waits_for_its_workers_engine_counts_those_in_front_of_it() -> None:
    backlog = seen({}, running=3, running_work=3 * WORK, workers=1, speed=WORK / 10)
    assert backlog.turn(job_of(QUEUES[0]), rank=0).seconds == 35.0  # half a job, two that have not begun, and itself
    assert backlog.seconds_left(job_of(QUEUES[0]), done=0.0) == 17.5  # a second or a third: in the middle
    assert backlog.seconds_left(job_of(QUEUES[0]), done=0.5) == 5.0


def test_nobody_knows_how_long_it_takes_while_no_worker_has_told_its_speed() -> None:
    backlog = seen({QUEUES[0]: 1})
    assert backlog.turn(job_of(QUEUES[0]), rank=0) == Turn(1, None)
    assert backlog.seconds_left(job_of(QUEUES[0]), done=0.5) is None


def test_a_teams_own_jobs_count_though_no_dispatcher_has_told_what_waits() -> None:
    assert Backlog.parse(None).turn(record(), rank=3) == Turn(4, None)


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, 0),
        ({"workers": 3, "speed": 3.0}, 0),  # nothing to do: to zero
        ({"waiting": {"normal:a": (1, 1)}}, 1),  # from zero, whatever it takes
        ({"waiting": {"normal:a": (90, 9000)}, "workers": 2}, 2),  # nobody knows yet how long it takes
        ({"waiting": {"normal:a": (10, 1800)}, "worker_speed": 10.0}, 3),  # from zero, by what the last one told
        (
            {"waiting": {"normal:a": (10, 1800)}, "worker_speed": 10.0, "workers": 1, "speed": 30.0},
            1,
        ),  # it knows better
        ({"waiting": {"normal:a": (10, 600)}, "workers": 1, "speed": 10.0}, 1),  # 60 GPU-seconds in 60 s
        ({"waiting": {"normal:a": (10, 601)}, "workers": 1, "speed": 10.0}, 2),
        ({"waiting": {"normal:a": (10, 601)}, "workers": 4, "speed": 40.0}, 2),  # the speed is that of all together
        ({"waiting": {"normal:a": (5, 400), "low:b": (5, 400)}, "workers": 1, "speed": 10.0}, 2),
        ({"waiting": {"normal:a": (0, 900)}, "published": 9, "workers": 1, "speed": 10.0}, 2),  # their work is told too
        ({"waiting": {"normal:a": (99, 99999)}, "workers": 1, "speed": 10.0}, 5),  # bounded
        ({"running": 1, "running_work": 10, "workers": 3, "speed": 30.0}, 1),
        ({"running": 1}, 1),  # its worker may have been slow to tell that it lives
        ({"running": 3, "running_work": 3, "workers": 3, "speed": 30.0}, 3),  # a second of work, but three are busy
        ({"running": 9, "running_work": 9, "workers": 3, "speed": 30.0}, 3),  # several jobs in one worker
        ({"running": 8, "running_work": 8, "workers": 8, "speed": 80.0}, 8),  # busy beyond the bound
    ],
)
def test_desired_workers_are_gpu_seconds_by_target_wait_within_bounds(known: dict[str, Any], wanted: int) -> None:
    assert Backlog.model_validate(known).desired_workers(timedelta(minutes=1), most=5) == wanted


@given(
    st.builds(
        Backlog,
        waiting=st.dictionaries(st.sampled_from([str(each) for each in QUEUES]), st.tuples(st.integers(0, 99), COUNT)),
        published=st.integers(0, 9),
        running=st.integers(0, 9),
        running_work=COUNT,
        workers=st.integers(0, 9),
        speed=st.sampled_from([0.0, 0.1, 30.0]),
        worker_speed=st.sampled_from([0.0, 0.1, 30.0]),
    ),
    st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_no_busy_worker_is_scaled_away_and_none_is_wanted_only_when_there_is_no_job(seen: Backlog, most: int) -> None:
    wanted = seen.desired_workers(timedelta(minutes=1), most)
    assert wanted >= min(seen.running, seen.workers)
    assert wanted <= max(most, seen.running)
    assert (wanted == 0) == (not seen.running + seen.published + sum(count for count, _ in seen.waiting.values()))
