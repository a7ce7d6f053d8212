"""A job's record as a value, with its transitions as pure functions.

A transition takes a record and gives the next one, or raises; it may run more than once. What a change means for
indices, leases and credits follows from the two records alone and is worked out where they are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from shared.cost import price_in_usd
from shared.errors import Canceled, ContentFlagged, IllegalTransition, LeaseLost, ReduxqError, TooManyAttempts
from shared.ids import AssetKey, JobId, TeamId, UserId
from shared.sizes import AspectRatio, Megapixels, Size, size_of

SCHEMA: Final = 1  #: number of the record's layout
SEEDS: Final = 2**32  #: seeds are 0 ... SEEDS - 1; ``seed + i`` wraps


class JobStatus(StrEnum):
    """Where a job is."""

    QUEUED = "queued"  #: accepted, waiting for a worker
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: its variations are published
    FAILED = "failed"  #: it ended without variations
    CANCELED = "canceled"  #: its owner ended it


TERMINAL: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class OutputFormat(StrEnum):
    """File type of a variation; the value is its extension too."""

    WEBP = "webp"
    JPG = "jpg"
    PNG = "png"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Recipe(NamedTuple):
    """What the model must know of a job, beside its source."""

    size: Size
    num_inference_steps: int  #: at least 1
    guidance_scale: float  #: distilled guidance; ignored by a model without it
    seeds: tuple[int, ...]  #: one for each variation


class Parameters(_Value):
    """What to make, named after Replicate and diffusers."""

    source: AssetKey
    aspect_ratio: AspectRatio = AspectRatio.STANDARD
    megapixels: Megapixels = Megapixels.ONE
    num_outputs: int = Field(1, ge=1, le=4)
    num_inference_steps: int = Field(28, ge=1, le=50)
    guidance_scale: float = 3.0  #: distilled guidance; 3.0 after replicate/cog-flux
    seed: int = Field(ge=0, lt=SEEDS)
    output_format: OutputFormat = OutputFormat.WEBP
    output_quality: int = Field(80, ge=1, le=100)  #: for webp and jpg
    disable_safety_checker: bool = False

    @property
    def size(self) -> Size:
        return size_of(self.aspect_ratio, self.megapixels)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each variation, so that any one can be made again alone."""
        return tuple((self.seed + i) % SEEDS for i in range(self.num_outputs))

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.size, self.num_inference_steps, self.guidance_scale, self.seeds)

    @property
    def usd(self) -> Fraction:
        """Exact price in US dollars."""
        return price_in_usd(self.size, num_outputs=self.num_outputs, num_inference_steps=self.num_inference_steps)


class Variation(_Value):
    """One image that came out."""

    key: AssetKey
    seed: int
    content_type: str
    size_bytes: int


class Flagged(_Value):
    """One variation that the safety checker withheld."""

    seed: int
    score: float  #: 0 ... 1, how sure the checker is


class Failure(_Value):
    """Why a job failed."""

    code: str
    name: str
    message: str


class ModelIdentity(_Value):
    """Which weights made the variations."""

    base: str
    redux: str
    trained: bool  #: False: random weights, the pictures are noise
    safety_checker: str | None = None


class Echo(_Value):
    """What the facade that took the job needs to answer in its own words; nobody else reads it."""

    type: str
    model: str
    prompt_object: str  #: JSON text: however odd, it cannot make the record unreadable
    metadata: str = "null"  #: JSON text
    conversation_id: str | None = None
    end_user: str | None = None  #: whom the caller acts for
    request_id: str


class JobRecord(_Value):
    """What is stored about a job."""

    schema_number: int = Field(SCHEMA, alias="schema")
    version: int = 0  #: raised by every stored change
    id: JobId
    team_id: TeamId
    user_id: UserId
    parameters: Parameters
    echo: Echo
    price: int  #: credits reserved at acceptance
    charged: int = 0  #: credits that were used of them, known at the end
    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0  #: starts so far; fences off workers that lost the job
    failed_attempts: int = 0
    created_at: datetime
    started_at: datetime | None = None  #: of the newest attempt
    finished_at: datetime | None = None
    planned_keys: tuple[AssetKey, ...] = ()  #: where the newest attempt writes its variations
    variations: tuple[Variation, ...] = ()
    flagged: tuple[Flagged, ...] = ()
    failure: Failure | None = None
    erased_at: datetime | None = None  #: its owner had its variations deleted
    model: ModelIdentity | None = None
    timings: Mapping[str, float] = Field(default_factory=dict)  #: seconds the last attempt spent in each part

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL


Transition = Callable[[JobRecord], JobRecord]


def claim(record: JobRecord, *, now: datetime, prefix: str, digits: Sequence[int]) -> JobRecord:
    """Start the next attempt and plan its output keys.

    Args:
        record: The job to start.
        now: Stamp of the attempt and its keys.
        prefix: What the operator's object keys start with.
        digits: A number of six digits for each possible variation, drawn at random and all different.

    Raises:
        IllegalTransition: If the job is not queued: someone else has it, or it has ended.
    """
    if record.status is not JobStatus.QUEUED:
        raise IllegalTransition(f"job {record.id} is {record.status}, not queued")
    stamp, extension = key_stamp(now), record.parameters.output_format
    planned = (AssetKey(f"{prefix}images/{stamp}_{n:06d}.{extension}") for n in digits)
    return _changed(
        record,
        status=JobStatus.RUNNING,
        attempt=record.attempt + 1,
        started_at=now,
        planned_keys=tuple(planned)[: record.parameters.num_outputs],
    )


def finish(
    record: JobRecord,
    *,
    attempt: int,
    variations: tuple[Variation, ...],
    flagged: tuple[Flagged, ...] = (),
    model: ModelIdentity,
    timings: Mapping[str, float],
    now: datetime,
) -> JobRecord:
    """End the job with what the model made: a success that costs the share of its price for what is delivered.

    With every variation flagged it is a failure. Repeating it for the attempt that did so changes nothing.

    Raises:
        LeaseLost: If another attempt owns the job or ended it.
    """
    if record.finished and record.model and record.attempt == attempt:  # only this transition tells the model
        return record
    _require_held(record, attempt)
    made = _changed(record, flagged=flagged, model=model, timings=timings)
    if flagged and not variations:
        scores = ", ".join(f"{withheld.score:g}" for withheld in flagged)
        return _failed(made, ContentFlagged(f"{ContentFlagged.__doc__} Scores: {scores}"), now)
    charged = ceil(Fraction(record.price * len(variations), record.parameters.num_outputs))
    return _changed(made, status=JobStatus.SUCCEEDED, finished_at=now, variations=variations, charged=charged)


def fail(record: JobRecord, *, attempt: int, error: ReduxqError, now: datetime) -> JobRecord:
    """End the job for good. Repeating it for the attempt that did so changes nothing.

    Raises:
        LeaseLost: If another attempt owns the job or ended it.
    """
    if record.status is JobStatus.FAILED and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    return _failed(record, error, now)


def cancel(record: JobRecord, *, now: datetime) -> JobRecord:
    """End the job because its owner wants that; one that has ended stays as it is."""
    if record.finished:
        return record
    return _changed(_failed(record, Canceled(), now), status=JobStatus.CANCELED)


def erase(record: JobRecord, *, now: datetime) -> JobRecord:
    """Leave a tombstone: what was paid and when, but nothing of what the client sent or got.

    Raises:
        IllegalTransition: If the job has not ended.
    """
    if record.erased_at:
        return record
    if not record.finished:
        raise IllegalTransition(f"job {record.id} is {record.status}; only one that has ended can be erased")
    echo = record.echo.model_copy(update={"prompt_object": "{}", "metadata": "null", "end_user": None})
    return _changed(record, variations=(), planned_keys=(), echo=echo, erased_at=now)


def hand_back(record: JobRecord, *, attempt: int) -> JobRecord:
    """Put an attempt that its worker gave up unharmed back into the queue; it counts as no failure.

    Repeating it for the attempt that did so changes nothing, as with :func:`fail_attempt`.
    """
    if record.status is JobStatus.QUEUED and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    return _changed(record, status=JobStatus.QUEUED)


def fail_attempt(record: JobRecord, *, attempt: int, reason: str, limit: int, now: datetime) -> JobRecord:
    """Put the job back into the queue, or end it when ``limit`` attempts have failed.

    Raises:
        LeaseLost: If another attempt owns the job or ended it.
    """
    if record.status in {JobStatus.QUEUED, JobStatus.FAILED} and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    failed = record.failed_attempts + 1
    counted = _changed(record, failed_attempts=failed)
    if failed >= limit:
        return _failed(counted, TooManyAttempts(f"{failed} attempts failed; the last: {reason}"), now)
    return _changed(counted, status=JobStatus.QUEUED)


def key_stamp(now: datetime) -> str:
    """Return ``YYYY_MM_DD_HH_MM_SS_mmm`` of a UTC instant, as object keys carry it."""
    return now.strftime("%Y_%m_%d_%H_%M_%S_") + f"{now.microsecond // 1000:03d}"


def _require_held(record: JobRecord, attempt: int) -> None:
    if record.status is not JobStatus.RUNNING or record.attempt != attempt:
        raise LeaseLost(f"attempt {attempt} no longer owns job {record.id} ({record.status}, attempt {record.attempt})")


def _failed(record: JobRecord, error: ReduxqError, now: datetime) -> JobRecord:
    failure = Failure(code=error.code, name=type(error).__name__, message=error.message)
    return _changed(record, status=JobStatus.FAILED, finished_at=now, failure=failure)


def _changed(record: JobRecord, **fields: object) -> JobRecord:
    return record.model_copy(update=fields)
