"""The demo: one picture through the whole service."""

import json
from collections.abc import Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, Final

from PIL import Image, ImageOps
from rich.console import Console

from reduxq.client import AiRecord, Client
from reduxq.local.contact_sheet import contact_sheet
from reduxq.local.stack import Stack, running_stack
from shared.errors import JobError, ReduxqError, Unavailable

SAMPLE: Final = Path(__file__).with_name("sample.webp")
PATIENCE: Final = 10.0  #: seconds for one call; while it lasts Ctrl-C has to wait
TICKS: Final = 5  #: of the supervisor, half a second, between two questions: a key may ask 180 times a minute
STALLED: Final = timedelta(minutes=2)  #: a job that does not get on for this long is given up
NOISE: Final = (
    "The pictures are noise: the embedded model has FLUX.1 Redux's classes, but is tiny and its weights are random.\n"
    "They show the way of a job, not what the real weights make."
)


def run_demo(
    prompt: dict[str, Any], *, image: Path, out: Path, data: Path, console: Console, signals: Sequence[int]
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
            with Client(stack.plan.url("api"), stack.api_key, timeout=PATIENCE, trust_env=False) as client:
                key = client.upload(image.name, source)
                job = client.submit({**prompt, "imageUrl": key})
                record = _follow(job["uuid"], client, stack, console)
                _keep(record, source, client, out)
        except ReduxqError as error:
            raise ReduxqError(f"{error.message}; the logs are in {stack.logs}") from error
    _conclude(record, out, console)


def _follow(uuid: str, client: Client, stack: Stack, console: Console) -> AiRecord:
    """Tell how far the job is, live on a terminal; return its record when it has succeeded."""
    said, news_at = "submitted", monotonic()
    with console.status(said) as line:
        while monotonic() - news_at < STALLED.total_seconds():
            for _ in range(TICKS):
                stack.supervisor.tend()
            try:
                record = client.result(uuid)
            except Unavailable:  # it is being started again, or was asked too often
                continue
            if (text := _describe(record)) != said:
                said, news_at = text, monotonic()
                line.update(text)
                if not console.is_terminal:
                    console.print(text)
            if record["status"] == "SUCCESS":
                return record
            if record["status"] == "FAILURE":
                failure = record["aiRecordDetail"]["resultObject"]
                raise JobError(f"the job failed with {failure['code']}: {failure['message']}")
    raise Unavailable(f"the job {uuid} has not moved for {STALLED.total_seconds():g} s")


def _describe(record: AiRecord) -> str:
    """Return in words how far a job is."""
    extra = record["additionalData"]
    if record["status"] != "PROCESSING":
        return str(record["status"]).lower()
    if progress := extra["progress"]:
        return f"running, step {progress['step']} of {progress['steps']}"
    if extra["queuePosition"] is not None:
        return f"queued, position {extra['queuePosition']}"
    return "running, loading the picture"


def _keep(record: AiRecord, source: bytes, client: Client, out: Path) -> None:
    """Write what came out, in the place of what an earlier demo wrote."""
    extra, variations = record["additionalData"], {}
    for earlier in out.glob("variation-*.webp"):
        earlier.unlink()
    for number, (seed, link) in enumerate(zip(extra["seeds"], extra["temporaryUrls"], strict=False), start=1):
        variation = client.download(link)
        (out / f"variation-{number}.webp").write_bytes(variation)
        variations[f"seed {seed}"] = Image.open(BytesIO(variation))
    with Image.open(BytesIO(source)) as picture:
        contact_sheet(ImageOps.exif_transpose(picture), variations).save(out / "contact-sheet.png")
    (out / "aiRecord.json").write_text(json.dumps(record, indent=2) + "\n")


def _conclude(record: AiRecord, out: Path, console: Console) -> None:
    extra = record["additionalData"]
    count, seconds = len(extra["temporaryUrls"]), extra["timings"]["runSeconds"]
    console.print(f"{count} variation{'s' if count > 1 else ''} in {seconds:.1f} s:")
    for place in (*sorted(out.glob("variation-*.webp")), out / "contact-sheet.png", out / "aiRecord.json"):
        console.print(f"  {place}")
    if not (extra["model"] or {}).get("trained"):
        console.print(NOISE)
