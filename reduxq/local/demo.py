"""The demo: one picture through the whole service."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Final

from PIL import Image, ImageOps
from rich.console import Console

from reduxq import errors
from reduxq.client import Client, Parameters
from reduxq.job import Job
from reduxq.local.contact_sheet import contact_sheet
from reduxq.local.stack import Stack, running_stack
from shared.errors import ReduxqError

SAMPLE: Final = Path(__file__).with_name("sample.webp")
PATIENCE: Final = 10.0  #: seconds for one call; while it lasts Ctrl-C has to wait
TICKS: Final = 5  #: of the supervisor, half a second, between two questions: a key may ask 180 times a minute
STALLED: Final = timedelta(minutes=2)  #: a job that does not get on for this long is given up
NOISE: Final = (
    "The pictures are noise: the embedded model has FLUX.1 Redux's classes, but is tiny and its weights are random.\n"
    "They show the way of a job, not what the real weights make."
)


def run_demo(
    prompt: Parameters, *, image: Path, out: Path, data: Path, console: Console, signals: Sequence[int]
) -> None:
    """Start a stack, vary one picture as ``prompt`` says, keep what comes out, stop the stack.

    Raises:
        ReduxqError, OSError: With one clear line, if anything fails.
        KeyboardInterrupt: If the user wants to stop.
    """
    source = image.read_bytes()
    out.mkdir(parents=True, exist_ok=True)
    console.print(f"Starting the local stack; its logs are in {data / 'logs'}")
    with running_stack(data, console, signals) as stack:
        try:
            url = stack.plan.url("api")
            with Client(url, stack.api_key, timeout=PATIENCE, attempts=1, trust_env=False) as client:
                job = client.variations.create(image, **prompt)
                _follow(job, stack, console)
                _keep(job, source, out)
        except (ReduxqError, errors.ReduxqError) as error:
            raise ReduxqError(f"{error.message}; the logs are in {stack.logs}") from error
    _conclude(job, out, console)


def _follow(job: Job, stack: Stack, console: Console) -> None:
    """Tell how far the job is, live on a terminal, until it has succeeded."""
    said, news_at = "submitted", monotonic()
    with console.status(said) as line:
        while monotonic() - news_at < STALLED.total_seconds():
            for _ in range(TICKS):
                stack.supervisor.tend()
            with suppress(errors.Unavailable, errors.TooManyRequests):  # it is being started again
                job.refresh()
            if (text := job.describe()) != said:
                said, news_at = text, monotonic()
                line.update(text)
                if not console.is_terminal:
                    console.print(text)
            if error := job.error:
                raise ReduxqError(f"the job failed with {error.code}: {error.message}")
            if job.finished:
                return
    raise ReduxqError(f"the job {job.uuid} has not moved for {STALLED.total_seconds():g} s")


def _keep(job: Job, source: bytes, out: Path) -> None:
    """Write what came out, in the place of what an earlier demo wrote."""
    for earlier in out.glob("variation-*.webp"):
        earlier.unlink()
    variations = {
        f"seed {seed}": Image.open(path) for seed, path in zip(job.seeds, job.download(out, "variation"), strict=True)
    }
    with Image.open(BytesIO(source)) as picture:
        contact_sheet(ImageOps.exif_transpose(picture), variations).save(out / "contact-sheet.png")
    (out / "aiRecord.json").write_text(json.dumps(job.record, indent=2) + "\n")


def _conclude(job: Job, out: Path, console: Console) -> None:
    extra, count = job.record["additionalData"], len(job.urls)
    console.print(f"{count} variation{'s' if count > 1 else ''} in {extra['timings']['runSeconds']:.1f} s:")
    for place in (*sorted(out.glob("variation-*.webp")), out / "contact-sheet.png", out / "aiRecord.json"):
        console.print(f"  {place}")
    if not (extra["model"] or {}).get("trained"):
        console.print(NOISE)
