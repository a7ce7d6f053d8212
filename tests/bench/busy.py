"""How busy the GPU is kept while jobs wait: the worker beside a loop that does one thing after another.

Share of the time from the first step to the last finish that the model is in a step or decodes. Everything is real but
the model, which sleeps as a GPU would compute; the loop does what replicate/cog-flux does for each request: download,
condition, variations one after another, encode, upload. Run by ``make bench``.
"""

import argparse
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from shared.ids import AssetKey
from shared.images import read_source
from shared.jobs import JobStatus, OutputFormat, Parameters
from shared.object_store import ObjectStore
from shared.settings import StorageSettings
from shared.sizes import Size
from tests.paced_worker import ToldModel, clouds
from tests.samples import encoded
from tests.servers import wait_until
from tests.yard import Yard
from worker.encoding import encode

JOBS, WORKERS = 50, (1, 2)
PACE = 0.125  #: seconds for a row's step at 1 megapixel: 3.5 s a picture of 28 steps, the goal for an H200
DECODE = 1 / 8  #: of a step, by the operations of either
GOAL = 97.0  #: percent
SOURCE = AssetKey("images/source.png")
PARAMETERS: dict[str, Any] = {"megapixels": "1", "aspect_ratio": "1:1", "num_outputs": 4, "num_inference_steps": 4}
LONG = 0.005  #: seconds without a call that are worth telling


class Span(NamedTuple):
    """One call of the model, seconds since the epoch."""

    began: float
    ended: float


class Run(NamedTuple):
    """What became of the jobs."""

    workers: list[list[Span]]
    finished: float  #: the last of them; seconds since the epoch
    jobs: int

    @property
    def seconds(self) -> float:
        return self.finished - min(spans[0].began for spans in self.workers)

    @property
    def busy(self) -> float:
        """Percent of the workers' time."""
        spent = sum(span.ended - span.began for spans in self.workers for span in spans)
        return 100 * spent / (len(self.workers) * self.seconds)

    def line(self) -> str:
        pauses = [after.began - before.ended for spans in self.workers for before, after in itertools.pairwise(spans)]
        long = [pause for pause in pauses if pause > LONG]
        between = 100 * sum(pauses) / (len(self.workers) * self.seconds)
        idle = f"idle between calls {between:.1f} % ({len(long)} pauses of more than 5 ms, {max(pauses):.3f} s at most)"
        return f"{self.busy:8.1f} %  busy; {60 * self.jobs / self.seconds:5.1f} jobs a minute; {idle}"


def spans_in(log: str) -> list[Span]:
    """Return the calls that a paced worker told of."""
    told = (line.split() for line in log.splitlines() if line.startswith("call "))
    return [Span(float(began), float(ended)) for _, began, ended in told]


def ours(yard: Yard, workers: int, jobs: int, pace: float) -> Run:
    """Give the worker processes all the jobs at once."""
    names = [f"worker-{workers}-{number}" for number in range(workers)]
    processes = [yard.worker(name, pace=pace) for name in names]
    accepted = [yard.accept(**PARAMETERS) for _ in range(jobs)]
    wait_until(lambda: yard.stored(accepted[-1]).finished, 600)
    ended = [yard.wait_for(job_id, JobStatus.SUCCEEDED).finished_at for job_id in accepted]
    for process in processes:
        process.terminate()
        process.wait()
    finished = max(at.timestamp() for at in ended if at)
    return Run([spans_in(yard.log(name)) for name in names], finished, jobs)


def loop(storage: StorageSettings, jobs: Sequence[int], model: ToldModel, log: Path) -> None:
    """Run jobs as one process of replicate/cog-flux does."""
    objects, parameters = ObjectStore(storage), Parameters(source=SOURCE, seed=7, **PARAMETERS)
    with log.open("w") as file, redirect_stdout(file):
        for job in jobs:
            rows = model.begin(model.prepare(read_source(objects.get(SOURCE)), parameters.recipe))
            for row in rows:
                for _ in range(row.steps):
                    model.advance([row])
            pictures = [model.decode(row)() for row in rows]
            files = [encode(picture, OutputFormat.WEBP, parameters.output_quality) for picture in pictures]
            for number, data in enumerate(files):
                objects.put(AssetKey(f"images/{log.stem}-{job}-{number}.webp"), data, "image/webp")
            print("finished", time.time())


def one_by_one(yard: Yard, workers: int, jobs: int, pace: float) -> Run:
    """Give each of these loops its share of the jobs."""
    logs = [yard.folder / f"loop-{workers}-{number}.log" for number in range(workers)]
    model = ToldModel(pace=pace, decoding=DECODE * pace, photos=True)
    processes = [
        multiprocessing.Process(target=loop, args=(yard.storage, range(number, jobs, workers), model, log))
        for number, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    told = [log.read_text() for log in logs]
    finished = max(float(text.splitlines()[-1].split()[1]) for text in told)
    return Run([spans_in(text) for text in told], finished, jobs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.busy", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--pace", type=float, default=PACE, help="seconds for a row's step")
    jobs, pace = vars(parser.parse_args()).values()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as living:
        yard = Yard(Path(folder), living, {"PHOTOS": "1", "DECODE": str(DECODE * pace)})
        yard.objects.put(SOURCE, encoded(clouds(Size(2048, 1536)), "JPEG"), "image/jpeg")
        for workers in WORKERS:
            psutil.cpu_percent()
            for name, side in (("ours", ours), ("one after another", one_by_one)):
                run = side(yard, workers, jobs, pace)
                told = f"{workers} x {name}; the cores {psutil.cpu_percent():.0f} % busy"
                print(f"{run.line()}: {told}", flush=True)


if __name__ == "__main__":
    main()
