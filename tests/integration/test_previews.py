"""What goes ahead is begun at once by a worker that has no slot left: previews, what is due first, all but low jobs."""

import time
from datetime import UTC, datetime
from typing import Any

from shared.connections import run
from shared.ids import JobId, TeamId
from shared.jobs import JobRecord, JobStatus, Lane
from shared.queue import QUEUES, make_celery
from tests.samples import record
from tests.yard import STORE, Yard

PACE = 0.05  #: seconds of a step
LARGE_STEPS, PREVIEW_STEPS = 30, 4
SOON = 0.8  #: seconds from acceptance to the first step: a few steps of what runs, and of two other previews
STREAM = 3.0  #: seconds


class Desk:
    """Accepts jobs of two teams, and knows when the engine of the one worker began them."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard
        self._worker = yard.worker("one", pace=PACE, slots=1, ahead=3)
        self.accepted: dict[int, JobId] = {}  #: by seed
        for lane in Lane:
            yard.records.hset(f"team:{lane}", "credit", 10**9)

    def accept(self, lane: Lane, steps: int | None = None) -> int:
        seed = 100 + len(self.accepted)
        steps = steps or (PREVIEW_STEPS if lane is Lane.PREVIEW else LARGE_STEPS)
        job = record(datetime.now(UTC), seed=seed, num_inference_steps=steps, megapixels="0.25")
        run(self._yard.records, STORE.accept(job.model_copy(update={"lane": lane, "team_id": TeamId(lane)})))
        self.accepted[seed] = job.id
        return seed

    def stored(self, seed: int) -> JobRecord:
        return self._yard.stored(self.accepted[seed])

    def begun(self) -> dict[int, float]:
        """Return how many seconds after its acceptance each job was begun, by seed."""
        words = [line.split() for line in self._yard.log("one").splitlines() if line.startswith("begin ")]
        return {int(seed): float(at) - self.stored(int(seed)).created_at.timestamp() for _, seed, at in words}

    def wait_for_all(self) -> None:
        for job_id in self.accepted.values():
            self._yard.wait_for(job_id, JobStatus.SUCCEEDED, seconds=30)


def test_previews_of_another_team_are_begun_at_once_though_every_slot_is_taken_and_large_jobs_still_finish(
    yard: Yard,
) -> None:
    desk = Desk(yard)
    large = [desk.accept(Lane.NORMAL) for _ in range(2)]
    yard.denoising("one")
    previews = []
    for _ in range(8):
        previews.append(desk.accept(Lane.PREVIEW))
        time.sleep(0.3)
    assert not desk.stored(large[-1]).started_at  # large jobs wait all the time
    asked: Any = make_celery(f"{yard.url}/1").control.inspect(timeout=5, limit=1)
    assert asked.stats()["celery@one"]["pool"]["max-concurrency"] == 4  # its slots and what goes ahead
    assert [queue["name"] for queue in asked.active_queues()["celery@one"]] == list(QUEUES)
    desk.wait_for_all()
    begun = desk.begun()
    assert max(begun[seed] for seed in previews) < SOON
    assert begun.keys() == {*large, *previews}


def test_previews_that_follow_each_other_without_end_keep_no_large_job_from_its_slot(yard: Yard) -> None:
    desk = Desk(yard)
    previews = [desk.accept(Lane.PREVIEW) for _ in range(3)]  # the worker's room and the dispatcher's headroom
    yard.denoising("one")
    large, until = desk.accept(Lane.NORMAL), time.monotonic() + STREAM
    while time.monotonic() < until and not desk.stored(large).started_at:
        previews = [seed if not desk.stored(seed).finished else desk.accept(Lane.PREVIEW) for seed in previews]
        time.sleep(0.02)
    assert desk.stored(large).started_at


def test_a_job_that_is_due_first_is_begun_at_once_though_every_slot_is_taken_and_what_it_overtook_still_ends(
    yard: Yard,
) -> None:
    desk = Desk(yard)
    runs, waits = (desk.accept(Lane.NORMAL, steps=50) for _ in range(2))
    yard.denoising("one")
    small = [desk.accept(Lane.NORMAL, steps=steps) for steps in (10, 8)]
    desk.wait_for_all()
    begun = desk.begun()
    assert max(begun[seed] for seed in small) < SOON + 10 * PACE
    ended = [seed for _, seed in sorted((str(desk.stored(seed).finished_at), seed) for seed in begun)]
    assert set(ended[:2]) == set(small)
    assert ended[2:] == [runs, waits]
    assert {desk.stored(seed).attempt for seed in begun} == {1}


def test_normal_jobs_are_begun_at_once_beside_a_low_one_that_takes_the_slot_and_waits_for_them(yard: Yard) -> None:
    desk = Desk(yard)
    low = [desk.accept(Lane.LOW) for _ in range(3)]
    yard.denoising("one")
    normal = [desk.accept(Lane.NORMAL) for _ in range(2)]
    desk.wait_for_all()
    begun = desk.begun()
    assert begun[normal[0]] < SOON
    ended = [seed for _, seed in sorted((str(desk.stored(seed).finished_at), seed) for seed in begun)]
    assert ended[0] == normal[0]
    assert ended.index(normal[1]) < ended.index(low[1])


def test_nothing_goes_ahead_of_a_job_that_hangs(yard: Yard) -> None:
    desk = Desk(yard)
    hanging = yard.accept(seed=13)
    yard.denoising("one")
    time.sleep(6)  # longer than a call may take that does not hang
    waits = [desk.accept(Lane.PREVIEW) for _ in range(3)]
    time.sleep(2)
    assert yard.stored(hanging).status is JobStatus.RUNNING
    assert {desk.stored(seed).status for seed in waits} == {JobStatus.QUEUED}
