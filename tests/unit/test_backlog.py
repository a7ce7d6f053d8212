from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from api.dispatch_policy import choose
from shared.backlog import Backlog, Turn
from shared.dispatch_store import Shares, Waiting
from shared.ids import JobId, TeamId
from shared.job_index import Queue
from shared.jobs import JobRecord, Lane
from tests.samples import record

QUEUES = [Queue(lane, TeamId(team)) for lane in Lane for team in "abc"]
WORK = record().parameters.work


def owner(queue: Queue) -> JobRecord:
    return record().model_copy(update={"team_id": queue.team_id, "lane": queue.lane})


def backlog_of(lengths: dict[Queue, int], **known: float) -> Backlog:
    waiting = {str(queue): (count, count * WORK) for queue, count in lengths.items()}
    return Backlog(waiting=waiting, **known)


@given(st.dictionaries(st.sampled_from(QUEUES), st.integers(1, 6), min_size=1), st.integers(0, 5), st.data())
@settings(max_examples=200, deadline=None)
def test_the_place_of_one_among_equal_jobs_is_that_of_its_turn(
    lengths: dict[Queue, int], under_way: int, data: st.DataObject
) -> None:
    queue = data.draw(st.sampled_from(sorted(lengths)))
    rank = data.draw(st.integers(0, lengths[queue] - 1))
    # Whoever of the same turn is older goes first; the estimate counts on being the last of them.
    waiting = [
        Waiting(JobId(f"{each}-{number}"), each, number * 10 + (each.team_id == queue.team_id), WORK)
        for each, count in lengths.items()
        for number in range(count)
    ]
    order, _ = choose(waiting, Shares(0, {}), count=len(waiting), now_us=0, ageing=timedelta(seconds=300))
    brute = [job.job_id for job in order].index(JobId(f"{queue}-{rank}")) + 1 + under_way
    turn = backlog_of(lengths, published=under_way).turn(owner(queue), rank)
    shared_lanes = len({each.lane for each in lengths}) > 1  # a team's earlier lanes count among what it was given
    assert turn.seconds is None
    if shared_lanes:
        before = sum(
            count for each, count in lengths.items() if list(Lane).index(each.lane) < list(Lane).index(queue.lane)
        )
        same = sum(count for each, count in lengths.items() if each.lane is queue.lane)
        assert under_way + before < turn.position <= under_way + before + same
    else:
        assert turn.position == brute
