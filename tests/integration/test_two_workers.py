"""Two real workers share the work."""

import signal
from typing import NamedTuple

import pytest

from shared.ids import JobId
from shared.jobs import JobStatus, Lane
from tests.yard import Yard

PACE, STEPS, JOBS = 0.06, 28, 8
IDLE = 1.0  #: seconds a worker may idle at most while another holds a job that it has not begun


class Span(NamedTuple):
    """From one time to another, Unix seconds."""

    begin: float
    end: float

    def shared_with(self, other: "Span") -> float:
        return min(self.end, other.end) - max(self.begin, other.begin)


def engine_spans(log: str) -> dict[int, Span]:
    """Return when a worker's engine had which job, by seed."""
    words = [line.split() for line in log.splitlines() if line.startswith(("begin ", "end "))]
    at = {(what, int(seed)): float(time) for what, seed, time in words}
    return {seed: Span(at["begin", seed], at["end", seed]) for what, seed in at if what == "begin"}


def idle_spans(busy: list[Span], whole: Span) -> list[Span]:
    """Return when an engine had nothing to do, within the whole time."""
    ends = [whole.begin, *(span.end for span in busy)]
    begins = [*(span.begin for span in busy), whole.end]
    return [Span(end, begin) for end, begin in zip(ends, begins, strict=True) if begin > end]


@pytest.mark.parametrize("lane", [Lane.NORMAL, Lane.LOW])
def test_no_worker_idles_for_more_than_a_second_while_another_holds_a_job_it_has_not_begun(
    lane: Lane, yard: Yard
) -> None:
    _, two = (yard.worker(name, pace=PACE, slots=JOBS) for name in ("one", "two"))
    two.send_signal(signal.SIGSTOP)  # so that the first could take all
    jobs: dict[int, JobId] = {
        seed: yard.accept(lane, seed=seed, num_inference_steps=STEPS) for seed in range(100, 100 + JOBS)
    }
    yard.denoising("one")
    two.send_signal(signal.SIGCONT)
    done = {seed: yard.wait_for(job_id, JobStatus.SUCCEEDED, seconds=40) for seed, job_id in jobs.items()}
    claimed = {seed: job.started_at.timestamp() for seed, job in done.items() if job.started_at}
    spans = {name: engine_spans(yard.log(name)) for name in ("one", "two")}
    assert sum(len(of_one) for of_one in spans.values()) == len(claimed) == JOBS  # each job began once
    whole = Span(min(claimed.values()), max(span.end for of_one in spans.values() for span in of_one.values()))
    for holder, idler in (("one", "two"), ("two", "one")):
        unbegun = [Span(claimed[seed], span.begin) for seed, span in spans[holder].items()]
        idle = idle_spans(sorted(spans[idler].values()), whole)
        assert max(hold.shared_with(nothing) for hold in unbegun for nothing in idle) <= IDLE
    one_job = max(job.timings["gpuSeconds"] for job in done.values())
    assert whole.end - whole.begin < (JOBS / 2 + 0.5) * one_job
