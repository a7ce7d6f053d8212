"""Many jobs of one request: a batch as a value, and where the records server keeps its items.

An item is a line of what was sent. It is in one sorted set, by its state, whose members and scores are line numbers:
it waits, or has the status of the job that it became, or is invalid. Counts are the sizes of these sets, and an item
moves in the same commit in which its job does, so no outcome can be lost or counted twice.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, Field

from shared.ids import AssetKey, BatchId, JobId
from shared.jobs import Failure, Flagged, Item, JobRecord, JobStatus, Told, Value
from shared.keys import ApiKey
from shared.programs import Bounds, Command

SCHEMA: Final = 1  #: number of the layout of what is stored of a batch, as that of jobs


class Lot(StrEnum):
    """Where an item is that is no job."""

    WAITING = "waiting"  #: for the feeder
    INVALID = "invalid"  #: its line says nothing that could be tried


State = Lot | JobStatus
STATES: Final[tuple[State, ...]] = (*Lot, *JobStatus)
OPEN: Final = (Lot.WAITING, JobStatus.QUEUED, JobStatus.RUNNING)  #: not over
AGAIN: Final = (JobStatus.FAILED, JobStatus.CANCELED)  #: may be tried again


class Line(Value):
    """What one line asks for."""

    model_config = ConfigDict(extra="ignore")  # a later release's words, as in outcomes: these have no record's number

    custom_id: str | None = None
    prompt: str = "{}"  #: JSON text of an object; of one that cannot become a job nothing is kept


class Outcome(Value):
    """What became of an item; kept with the batch, for records leave earlier."""

    model_config = ConfigDict(extra="ignore")

    record_id: JobId | None = None
    keys: tuple[AssetKey, ...] = ()
    seeds: tuple[int, ...] = ()  #: of the variations under ``keys``
    flagged: tuple[Flagged, ...] = ()
    failure: Failure | None = None
    failed_attempts: int = 0  #: to let it become a job, while it waits


class Batch(Told):
    """What is stored about a batch beside its items."""

    schema_number: int = Field(SCHEMA, alias="schema")
    id: BatchId
    caller: ApiKey  #: who sent it, without the key's digest
    request_id: str
    defaults: str = "{}"  #: JSON text of an object; now they stand in each line
    metadata: str  #: JSON text
    low_priority: bool
    work: int  #: TFLOP of all its items together
    size_bytes: int = 0  #: about, that it takes on the records server with all its items
    version: int = 0  #: raised by every stored change
    created_at: datetime
    updated_at: datetime
    canceled_at: datetime | None = None  #: no item becomes a job any more
    finished_at: datetime | None = None  #: all items have ended and the manifest is stored
    results_key: AssetKey | None = None  #: where the manifest is, or is to be: each end has its own


def batch_place(batch_id: BatchId) -> str:
    return f"batch:{batch_id}"


def lines_place(batch_id: BatchId) -> str:
    """Return the hash of a batch's :class:`Line` by number."""
    return f"batch:{batch_id}:lines"


def outcomes_place(batch_id: BatchId) -> str:
    """Return the hash of a batch's :class:`Outcome` by line number."""
    return f"batch:{batch_id}:outcomes"


def state_place(batch_id: BatchId, state: State) -> str:
    return f"batch:{batch_id}:{state}"


def places(batch_id: BatchId) -> list[str]:
    """Return all keys of a batch's items."""
    return [lines_place(batch_id), outcomes_place(batch_id), *(state_place(batch_id, state) for state in STATES)]


def is_in(item: Item, state: State = Lot.WAITING) -> Bounds:
    """Return what must hold for an item to leave a state, or else to become a job."""
    return Bounds(("ZSCORE", state_place(item.batch_id, state), item.line), item.line, item.line)


def moved(item: Item, before: State, after: State, outcome: Outcome) -> list[Command]:
    """Return the commands that an item's way from one state to another means."""
    return [
        ("ZREM", state_place(item.batch_id, before), item.line),
        ("ZADD", state_place(item.batch_id, after), item.line, item.line),
        ("HSET", outcomes_place(item.batch_id), item.line, outcome.model_dump_json()),
    ]


def job_moved(before: JobRecord | None, after: JobRecord) -> list[Command]:
    """Return what a job's change of status means for the item that it is, if it is one."""
    if after.item is None:
        return []
    outcome = Outcome(
        record_id=after.id,
        keys=tuple(variation.key for variation in after.variations),
        seeds=tuple(variation.seed for variation in after.variations),
        flagged=after.flagged,
        failure=after.failure,
    )
    paid: Command = ("HINCRBY", batch_place(after.item.batch_id), "charged", after.charged)
    commands = moved(after.item, before.status if before else Lot.WAITING, after.status, outcome)
    return [*commands, paid] if after.charged else commands
