from api.dispatch_policy import choose, window
from shared.ids import JobId


def test_as_many_messages_as_there_are_free_slots_and_the_headroom() -> None:
    assert window(slots=4, running=1, under_way=0, headroom=1) == 4
    assert window(slots=4, running=1, under_way=3, headroom=1) == 1
    assert window(slots=4, running=4, under_way=1, headroom=1) == 0
    assert window(slots=4, running=9, under_way=9, headroom=1) == 0


def test_nothing_is_published_while_no_worker_lives() -> None:
    assert window(slots=0, running=0, under_way=0, headroom=1) == 0


def test_the_oldest_that_are_not_under_way_come_first() -> None:
    jobs = [JobId(name) for name in "abcd"]
    assert choose(jobs, {jobs[0], jobs[2]}, 5) == ["b", "d"]
    assert choose(jobs, set(), 2) == ["a", "b"]
