from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api.dispatch_policy import Busy, Plan, Room, choose, window
from shared.dispatch_store import Shares, UnderWay, Waiting
from shared.ids import JobId, TeamId
from shared.job_index import Queue
from shared.jobs import Lane

AGEING = timedelta(seconds=300)
SECOND = 1_000_000  #: in microseconds


def job(team: str, number: int, work: int = 10, lane: Lane = Lane.NORMAL, accepted_us: int | None = None) -> Waiting:
    at = number if accepted_us is None else accepted_us
    return Waiting(JobId(f"{team}-{lane}-{number:04}"), Queue(lane, TeamId(team)), at, work)


def jobs(team: str, count: int, work: int = 10, lane: Lane = Lane.NORMAL) -> list[Waiting]:
    return [job(team, number, work, lane) for number in range(count)]


class Dispatcher:
    """Shows :func:`choose` the oldest jobs of each queue, round by round, as the real one does."""

    def __init__(self, waiting: Iterable[Waiting] = (), now_us: int = 0) -> None:
        self.queues: dict[Queue, list[Waiting]] = {}
        self.given = Shares(0, {})
        self.now_us = now_us
        self.add(waiting)

    def add(self, waiting: Iterable[Waiting]) -> None:
        for each in waiting:
            self.queues.setdefault(each.queue, []).append(each)

    def round(self, slots: int = 1, ahead: int = 0, **more: Any) -> list[Waiting]:
        return self.plan(Room(slots, ahead), **more).jobs

    def plan(self, room: Room, **more: Any) -> Plan:
        shown = [each for own in self.queues.values() for each in own[: max(64, room.slots + room.ahead + 1)]]
        plan = choose(shown, self.given, room=room, now_us=self.now_us, ageing=AGEING, **more)
        self.given = plan.shares
        for each in plan.jobs:
            self.queues[each.queue].remove(each)
        return plan

    def all(self, slots: int = 1) -> list[Waiting]:
        chosen = []
        while batch := self.round(slots):
            chosen += batch
        return chosen


def work_of(chosen: Iterable[Waiting], team: str) -> int:
    return sum(each.work for each in chosen if each.queue.team_id == team)


def teams_of(chosen: Iterable[Waiting]) -> str:
    return "".join(each.queue.team_id for each in chosen)


def unfairness(chosen: Sequence[Waiting], teams: str) -> int:
    """The most that one team was ever ahead of another, while both still had jobs."""
    last = {team: max(place for place, each in enumerate(chosen) if each.queue.team_id == team) for team in teams}
    both = chosen[: min(last.values())]
    got = [[work_of(both[:end], team) for team in teams] for end in range(len(both) + 1)]
    return max(max(each) - min(each) for each in got)


def test_as_many_messages_as_there_are_free_slots_and_the_headroom() -> None:
    four = Room(slots=4, ahead=0)
    assert window(four, others=1, ahead=0, headroom=1) == Room(4, 0)
    assert window(four, others=4, ahead=0, headroom=1) == Room(1, 0)
    assert window(four, others=3, ahead=2, headroom=1) == Room(0, 0)
    assert window(four, others=18, ahead=0, headroom=0) == Room(0, 0)


def test_jobs_that_go_ahead_have_room_of_their_own_and_beyond_it_take_that_of_others() -> None:
    workers = Room(slots=4, ahead=2)
    assert window(workers, others=0, ahead=0, headroom=1) == Room(5, 3)
    assert window(workers, others=9, ahead=0, headroom=1) == Room(0, 3)
    assert window(workers, others=0, ahead=3, headroom=1) == Room(5, 0)
    assert window(workers, others=0, ahead=5, headroom=1) == Room(3, 0)
    assert window(workers, others=2, ahead=9, headroom=0) == Room(0, 0)
    assert window(Room(slots=0, ahead=2), others=0, ahead=2, headroom=1) == Room(1, 1)
    assert window(Room(slots=4, ahead=12), others=4, ahead=3, headroom=0) == Room(0, 9, kept=4)


def test_nothing_is_published_while_no_worker_lives() -> None:
    assert window(Room(0, 0), others=0, ahead=0, headroom=1) == Room(0, 0)


@given(waiting=st.lists(st.sampled_from(Lane), max_size=12), slots=st.integers(0, 5), ahead=st.integers(0, 5))
def test_as_long_as_nothing_is_overtaken_previews_alone_find_room_besides(
    waiting: list[Lane], slots: int, ahead: int
) -> None:
    shown = [job("a", number, lane=lane) for number, lane in enumerate(waiting)]
    got = [each.queue.lane for each in Dispatcher(shown).round(slots, ahead)]
    quick, slow = waiting.count(Lane.PREVIEW), len(waiting) - waiting.count(Lane.PREVIEW)
    assert got.count(Lane.PREVIEW) == min(quick, slots + ahead)
    assert len(got) - got.count(Lane.PREVIEW) == min(slow, slots - max(0, min(quick, slots + ahead) - ahead))


def running(work: int, *, left: float | None = None, since: float = 0.0, lane: Lane = Lane.NORMAL) -> UnderWay:
    """A job that a worker has, accepted so many seconds before time 1,000."""
    return UnderWay(lane, int((1000 - since) * SECOND), work, work if left is None else left, ahead=False)


def overtaking(waiting: Iterable[Waiting], *jobs: UnderWay, room: Room, workers: int = 1) -> str:
    """Return the teams whose jobs go ahead at time 1,000 of workers with 100 TFLOP/s."""
    plan = Dispatcher(waiting, now_us=1000 * SECOND).plan(room, busy=Busy(jobs, 100.0, workers))
    return "".join(each.queue.team_id for each in plan.jobs if each.job_id in plan.ahead)


def test_a_job_goes_ahead_of_what_runs_when_its_turn_comes_first() -> None:
    now = 1000 * SECOND
    small, large = job("s", 0, 500, accepted_us=now), job("l", 1, 9000, accepted_us=now)
    room = Room(slots=0, ahead=3)
    assert overtaking([small, large], running(8000), room=room) == "s"
    assert overtaking([small], running(400), room=room) == ""  # due before it
    assert overtaking([small], running(8000, left=40, since=400), room=room) == ""  # late, but nearly done
    assert overtaking([small], running(8000, left=4000, since=400), room=room) == "s"  # late
    assert overtaking([small], running(400), running(8000), room=room, workers=2) == "s"
    assert overtaking([small], running(8000), room=Room(slots=1, ahead=3)) == ""  # there is a slot for it


def test_a_job_that_is_only_stored_still_keeps_nobody_from_going_ahead() -> None:
    small, storing = job("s", 0, 500, accepted_us=1000 * SECOND), running(400, left=0)
    assert overtaking([small], running(8000), storing, room=Room(slots=0, ahead=3)) == "s"
    assert overtaking([small], storing, storing, storing, room=Room(slots=0, ahead=3)) == "s"


def test_some_room_ahead_is_kept_for_previews_and_low_jobs_never_go_ahead() -> None:
    now = 1000 * SECOND
    full = Room(slots=0, ahead=1, kept=1)
    assert overtaking([job("s", 0, 500, accepted_us=now)], running(8000), room=full) == ""
    assert overtaking([job("p", 0, 400, Lane.PREVIEW, accepted_us=now)], running(8000), room=full) == "p"
    low = job("l", 0, 5, Lane.LOW, accepted_us=now)
    assert overtaking([low], running(8000, since=900), room=Room(slots=0, ahead=3)) == ""


def test_a_normal_job_goes_ahead_of_a_low_one_even_before_anybody_knows_how_fast_workers_are() -> None:
    plan = Dispatcher([job("n", 0, 9000)]).plan(
        Room(slots=0, ahead=3), busy=Busy([running(2000, lane=Lane.LOW)], 0.0, workers=1)
    )
    assert len(plan.ahead) == 1


def test_a_small_job_of_a_team_does_not_wait_behind_its_large_ones_that_are_late() -> None:
    now = 1000 * SECOND
    bulk = [job("a", number, 5000, accepted_us=now - 200 * SECOND + number) for number in range(20)]
    fresh = job("a", 99, 600, accepted_us=now)
    dispatcher = Dispatcher([*bulk, fresh], now)
    assert dispatcher.round(busy=Busy((), 100.0, 1)) == [fresh]
    assert dispatcher.round(busy=Busy((), 100.0, 1)) == bulk[:1]


def test_what_was_begun_before_or_has_waited_long_goes_before_what_is_due() -> None:
    now = 1000 * SECOND
    fresh, broken = job("a", 3, 600, accepted_us=now), job("a", 2, 5000, accepted_us=now - 100 * SECOND)
    old = job("a", 1, 9000, accepted_us=now - 301 * SECOND)
    dispatcher = Dispatcher([old, broken._replace(again=True), fresh], now)
    assert dispatcher.round(slots=3, busy=Busy((), 100.0, 1)) == [old, broken._replace(again=True), fresh]


def test_previews_that_go_ahead_put_nobody_back() -> None:
    dispatcher = Dispatcher([job("a", 0, work=100), *jobs("b", 11)])
    assert teams_of(dispatcher.round()) == "a"  # which now has 100 more than the other
    dispatcher.add([job("a", 1)])
    dispatcher.add(jobs("p", 20, work=100, lane=Lane.PREVIEW))
    for _ in range(20):
        assert teams_of(dispatcher.round(slots=0, ahead=1)) == "p"
    assert teams_of(dispatcher.round(slots=10)) == "b" * 10


def test_a_late_team_with_few_jobs_does_not_wait_behind_a_thousand() -> None:
    dispatcher = Dispatcher(jobs("a", 1000, work=3))
    for _ in range(100):
        dispatcher.round()
    dispatcher.add(job("b", 5000 + number, work=30) for number in range(10))
    together = dispatcher.all()
    assert unfairness(together, "ab") <= 30
    assert len(together) == 910
    assert teams_of(together[:110]).count("b") == 10


@given(
    works=st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=12), min_size=2, max_size=4),
    count=st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_what_two_teams_got_differs_by_no_more_than_a_job_while_both_wait(works: list[list[int]], count: int) -> None:
    teams = "abcd"[: len(works)]
    waiting = [job(team, n, work) for team, own in zip(teams, works, strict=True) for n, work in enumerate(own)]
    chosen = Dispatcher(waiting).all(count)
    assert sorted(chosen) == sorted(waiting)
    largest = max(each.work for each in waiting)
    for one in teams:
        for other in teams.replace(one, ""):
            assert unfairness([each for each in chosen if each.queue.team_id in one + other], one + other) <= largest


@given(
    waiting=st.lists(
        st.builds(
            job,
            st.sampled_from("abc"),
            st.integers(0, 9999),
            st.integers(1, 50),
            st.sampled_from(Lane),
            st.integers(0, 900 * SECOND),
        ),
        unique_by=lambda each: each.job_id,
        max_size=20,
    ),
    count=st.integers(0, 30),
)
@settings(max_examples=200, deadline=None)
def test_a_batch_has_no_job_twice_none_too_many_and_one_order(waiting: list[Waiting], count: int) -> None:
    ordered = sorted(waiting, key=lambda each: (each.accepted_us, each.job_id))
    room, now_us = Room(count, 0), 1000 * SECOND
    plan = choose(ordered, Shares(0, {}), room=room, now_us=now_us, ageing=AGEING)
    assert len(plan.jobs) == len(set(plan.jobs)) == min(count, len(waiting))
    aged = [each for each in ordered if now_us - each.accepted_us >= AGEING.total_seconds() * SECOND]
    for queue in {each.queue for each in waiting}:
        own = [each for each in aged if each.queue == queue]
        got = [each for each in plan.jobs if each.queue == queue]
        assert got[: len(own)] == own[: len(got)]
    by_queue = sorted(ordered, key=lambda each: each.queue)  # the queues' order says nothing
    assert choose(by_queue, Shares(0, {}), room=room, now_us=now_us, ageing=AGEING) == plan


def test_many_rounds_of_one_share_the_work_as_one_round_of_many() -> None:
    waiting = [*jobs("a", 60, work=1), *jobs("b", 6, work=10), *jobs("c", 20, work=3)]
    assert Dispatcher(waiting).all(slots=1) == Dispatcher(waiting).all(slots=99)


def test_previews_go_first_and_low_jobs_last() -> None:
    waiting = [*jobs("a", 2, lane=Lane.LOW), *jobs("b", 2), *jobs("c", 2, lane=Lane.PREVIEW)]
    chosen = Dispatcher(waiting).all(slots=2)
    assert [each.queue.lane for each in chosen] == [Lane.PREVIEW] * 2 + [Lane.NORMAL] * 2 + [Lane.LOW] * 2


def test_a_preview_counts_among_what_its_team_was_given() -> None:
    dispatcher = Dispatcher([job("a", 0, 50, Lane.PREVIEW), *jobs("a", 20), *jobs("b", 20)])
    assert teams_of(dispatcher.all()[:7]) == "abbbbba"


def test_a_job_that_waits_moves_up_a_lane_at_a_time() -> None:
    for waited, expected in ((299, "nl"), (300, "ln"), (599, "pln"), (601, "lpn")):
        now_us = 1000 * SECOND
        low = job("l", 0, lane=Lane.LOW, accepted_us=now_us - waited * SECOND)
        fresh = [
            job("n", 1, accepted_us=now_us),
            *([job("p", 2, lane=Lane.PREVIEW, accepted_us=now_us)] * (waited > 500)),
        ]
        assert teams_of(Dispatcher([low, *fresh], now_us).all(slots=9)) == expected, waited


def test_nobody_starves_behind_a_stream_of_previews() -> None:
    dispatcher = Dispatcher([job("l", 0, work=100, lane=Lane.LOW, accepted_us=0)])
    for second in range(1000):
        dispatcher.now_us = second * SECOND
        dispatcher.add([job("p", second, lane=Lane.PREVIEW, accepted_us=dispatcher.now_us)])
        if "l" in teams_of(dispatcher.round()):
            break
    assert 600 <= second <= 601


def test_jobs_that_all_waited_long_are_shared_as_fairly_as_others() -> None:
    now_us = 5000 * SECOND
    older = [job("a", number, accepted_us=number) for number in range(20)]
    old = [job("b", number, accepted_us=now_us - 700 * SECOND + number) for number in range(20)]
    assert teams_of(Dispatcher([*older, *old], now_us).round(10)).count("b") == 5


def test_a_team_that_paused_does_not_catch_up() -> None:
    dispatcher = Dispatcher([*jobs("a", 300), *jobs("b", 2)])
    for _ in range(104):
        dispatcher.round()
    dispatcher.add(job("b", number) for number in range(1000, 1100))
    assert teams_of(dispatcher.round(40)).count("a") == 20


def test_a_new_team_does_not_catch_up_with_the_others_because_low_jobs_wait() -> None:
    dispatcher = Dispatcher([*jobs("a", 300), *jobs("l", 5, lane=Lane.LOW)])
    for _ in range(100):
        dispatcher.round()
    dispatcher.add(job("b", number) for number in range(1000, 1100))
    assert teams_of(dispatcher.round(40)).count("a") == 20


def test_time_that_stands_still_or_goes_back_takes_no_job_down() -> None:
    late = [job("a", 0, accepted_us=900 * SECOND), job("b", 1, lane=Lane.LOW, accepted_us=900 * SECOND)]
    assert teams_of(Dispatcher(late, now_us=0).all(slots=2)) == "ab"


def test_the_clock_never_goes_back() -> None:
    dispatcher = Dispatcher([*jobs("a", 9, work=7), *jobs("b", 3, work=40, lane=Lane.LOW), *jobs("c", 30, work=1)])
    clocks = [dispatcher.given.clock]
    while dispatcher.round():
        clocks.append(dispatcher.given.clock)
    assert all(before <= after for before, after in pairwise(clocks))
    assert clocks[-1] > 0


def test_low_jobs_find_the_slots_that_nobody_else_takes() -> None:
    waiting = [*jobs("l", 9, lane=Lane.LOW), *jobs("n", 2)]
    assert teams_of(Dispatcher(waiting).round(slots=3)) == "nnl"
    old = Dispatcher([job("l", number, lane=Lane.LOW, accepted_us=0) for number in range(9)], now_us=700 * SECOND)
    old.add(job("n", number, accepted_us=old.now_us) for number in range(9))
    assert teams_of(old.round(slots=3)) == "lll"
