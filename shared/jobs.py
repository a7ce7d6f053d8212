"""A job's record as a value."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from shared.cost import price_in_usd, work_in_teraflops
from shared.errors import ReduxqError
from shared.ids import AssetKey, BatchId, JobId, TeamId, UserId
from shared.sizes import AspectRatio, Megapixels, Size, size_of

SCHEMA: Final = 2  #: number of the record's layout; that of the release before is read too, for rolling upgrades
SEEDS: Final = 2**32  #: seeds are 0 ... SEEDS - 1; ``seed + i`` wraps


class JobStatus(StrEnum):
    """Where a job is."""

    QUEUED = "queued"  #: accepted, waiting for a worker
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: its variations are published
    FAILED = "failed"  #: it ended without variations
    CANCELED = "canceled"  #: its owner ended it


TERMINAL: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class Lane(StrEnum):
    """Which jobs go first; whoever waits long moves up."""

    PREVIEW = "preview"  #: little work
    NORMAL = "normal"
    LOW = "low"  #: asked for with low priority


class OutputFormat(StrEnum):
    """File type of a variation; the value is its extension too."""

    WEBP = "webp"
    JPG = "jpg"
    PNG = "png"


class Value(BaseModel):
    """What is stored whole and never changed in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Recipe(NamedTuple):
    """What the model must know of a job, beside its source."""

    size: Size
    num_inference_steps: int  #: at least 1
    guidance_scale: float  #: distilled guidance; ignored by a model without it
    seeds: tuple[int, ...]  #: one for each variation


class Parameters(Value):
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

    @property
    def work(self) -> int:
        """What the model has to do, in 1e12 floating-point operations."""
        return work_in_teraflops(self.size, num_outputs=self.num_outputs, num_inference_steps=self.num_inference_steps)


class Variation(Value):
    """One image that came out."""

    key: AssetKey
    seed: int
    content_type: str
    size_bytes: int


class Flagged(Value):
    """One variation that the safety checker withheld."""

    seed: int
    score: float  #: 0 ... 1, how sure the checker is


class Failure(Value):
    """Why a job failed."""

    code: str
    name: str
    message: str

    @classmethod
    def of(cls, error: ReduxqError) -> Self:
        return cls(code=error.code, name=type(error).__name__, message=error.message)


class ModelIdentity(Value):
    """Which weights made the variations."""

    base: str
    redux: str
    trained: bool  #: False: random weights, the pictures are noise
    safety_checker: str | None = None
    precision: str | None = None  #: of its numbers; None: the release that wrote this did not say


class WebhookEvent(StrEnum):
    """What a webhook may be told; the value is the event's type on the wire."""

    STARTED = "job.started"
    FINISHED = "job.finished"


class BatchEvent(StrEnum):
    """As :class:`WebhookEvent`, of a batch."""

    FINISHED = "batch.finished"


AnyEvent = WebhookEvent | BatchEvent


class Webhook(Value):
    """Whom to tell about a job or a batch."""

    url: str
    events: tuple[AnyEvent, ...]


class Call(Value):
    """One call of a webhook."""

    at: datetime
    outcome: str  #: ``HTTP 200``, or what went wrong


class Delivery(Value):
    """One event on its way to a webhook."""

    event: AnyEvent
    at: datetime  #: when it happened; tells one end of a job that was retried from another
    calls: tuple[Call, ...] = ()
    next_at: datetime | None  #: of the next call; None: there is none to come
    delivered: bool = False


class Told(Value):
    """What a webhook may be told about."""

    id: str
    team_id: TeamId
    webhook: Webhook | None = None
    deliveries: tuple[Delivery, ...] = ()  #: at most one for each event, the newest


class Item(Value):
    """Which line of which batch a job is."""

    batch_id: BatchId
    line: int


class Echo(Value):
    """What the facade that took the job needs to answer in its own words; nobody else reads it."""

    type: str
    model: str
    prompt_object: str  #: JSON text: however odd, it cannot make the record unreadable
    metadata: str = "null"  #: JSON text
    conversation_id: str | None = None
    end_user: str | None = None  #: whom the caller acts for
    request_id: str


class JobRecord(Told):
    """What is stored about a job."""

    schema_number: int = Field(SCHEMA, alias="schema")
    version: int = 0  #: raised by every stored change
    id: JobId
    user_id: UserId
    parameters: Parameters
    echo: Echo
    price: int = 0  #: credits reserved at acceptance
    charged: int = 0  #: credits that were used of them, known at the end
    lane: Lane = Lane.NORMAL
    max_queue: timedelta | None = None  #: from acceptance to the first start, at most
    max_run: timedelta | None = None  #: from an attempt's start to its end, at most
    item: Item | None = None
    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0  #: starts so far; fences off workers that lost the job
    failed_attempts: int = 0
    created_at: datetime
    status_at: datetime | None = None  #: when it came to its status; None: at acceptance
    started_at: datetime | None = None  #: of the newest attempt
    finished_at: datetime | None = None
    owns_source: bool = False  #: its source was stored for it alone
    planned_keys: tuple[AssetKey, ...] = ()  #: where the newest attempt writes its variations
    variations: tuple[Variation, ...] = ()
    flagged: tuple[Flagged, ...] = ()
    failure: Failure | None = None
    erased_at: datetime | None = None  #: its owner had its variations deleted
    model: ModelIdentity | None = None
    timings: Mapping[str, float] = Field(default_factory=dict)  #: seconds the last attempt spent in each part

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, fields: object, info: ValidationInfo) -> object:
        """Read a record that the release before wrote."""
        if info.mode == "json" and isinstance(fields, dict) and fields.get("schema") == SCHEMA - 1:
            kept = {name: value for name, value in fields.items() if name != "abandoned_keys"}
            return kept | {"schema": SCHEMA}
        return fields

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def expires_at(self) -> datetime | None:
        """When the job ends if it is where it is now still."""
        if self.status is JobStatus.QUEUED and self.attempt == 0 and self.max_queue:
            return self.created_at + self.max_queue
        if self.status is JobStatus.RUNNING and self.started_at and self.max_run:
            return self.started_at + self.max_run
        return None

    @property
    def unpublished_keys(self) -> frozenset[AssetKey]:
        """Where the newest attempt may have written what nobody will ever see, once it is over."""
        return frozenset(self.planned_keys) - {variation.key for variation in self.variations}


def key_stamp(now: datetime) -> str:
    """Return ``YYYY_MM_DD_HH_MM_SS_mmm`` of a UTC instant, as object keys carry it."""
    return now.strftime("%Y_%m_%d_%H_%M_%S_") + f"{now.microsecond // 1000:03d}"
