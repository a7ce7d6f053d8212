"""Programs on batches that were accepted: read, fed item by item, ended and forgotten."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pydantic import ValidationError

from shared.assets import orphan
from shared.batches import (
    AGAIN,
    OPEN,
    STATES,
    Batch,
    Line,
    Lot,
    Outcome,
    State,
    batch_place,
    is_in,
    lines_place,
    moved,
    outcomes_place,
    places,
    state_place,
)
from shared.errors import NotFound, ReduxqError, UnreadableRecord
from shared.ids import AssetKey, BatchId, TeamId
from shared.job_index import COMPLETIONS, COMPLETIONS_KEPT, told
from shared.jobs import BatchEvent, Failure, Item, JobStatus
from shared.programs import Bounds, Command, Guard, Program, commit, lowest
from shared.transitions import telling

LIVING: Final = "batches"  #: set of the batches that have not ended
ENDED: Final = "batches:ended"  #: those that have, by acceptance in Unix seconds
KEPT: Final = "batches:bytes"  #: hash of the size of each team's batches, ended ones too

Change = Callable[[Batch], Batch]


class Counts(NamedTuple):
    """How many items are in each state."""

    of: Mapping[State, int]

    @property
    def open(self) -> int:
        return sum(self.of[state] for state in OPEN)

    @property
    def jobs(self) -> int:
        """Those that are open jobs."""
        return self.open - self.of[Lot.WAITING]


class BatchReport(NamedTuple):
    """A batch with what stands outside it."""

    batch: Batch
    counts: Counts
    charged: int  #: credits so far


class Entry(NamedTuple):
    """An item with what became of it."""

    number: int  #: of its line
    line: Line
    state: State
    outcome: Outcome


def get(batch_id: BatchId) -> Program[Batch | None]:
    """Return a batch's record."""
    text = yield ("HGET", batch_place(batch_id), "record")
    try:
        return Batch.model_validate_json(text) if text else None
    except ValidationError as error:
        raise UnreadableRecord(f"the record of batch {batch_id} cannot be read: {error}") from error


def report(batch_id: BatchId) -> Program[BatchReport | None]:
    """Return a batch with its counts."""
    batch = yield from get(batch_id)
    if batch is None:
        return None
    sizes = [("ZCARD", state_place(batch_id, state)) for state in STATES]
    charged, *counts = yield [("HGET", batch_place(batch_id), "charged"), *sizes]
    return BatchReport(batch, Counts(dict(zip(STATES, map(int, counts), strict=True))), int(charged or 0))


def page(team_id: TeamId, limit: int, after: int | None) -> Program[list[tuple[BatchId, int]]]:
    """Return a team's newest batches that were accepted before ``after``, in microseconds, and when."""
    top = "+inf" if after is None else f"({after}"
    rows = yield ("ZRANGE", listed_place(team_id), top, "-inf", "BYSCORE", "REV", "LIMIT", 0, limit, "WITHSCORES")
    return [(BatchId(batch_id), int(float(score))) for batch_id, score in rows]


def entries(batch_id: BatchId, states: Sequence[State], *, limit: int, after: int) -> Program[list[Entry]]:
    """Return the items of some states whose lines come next after a number, in order."""
    pages = yield [
        ("ZRANGE", state_place(batch_id, state), f"({after}", "+inf", "BYSCORE", "LIMIT", 0, limit) for state in states
    ]
    found = dict(
        sorted((int(number), state) for state, page in zip(states, pages, strict=True) for number in page)[:limit]
    )
    if not found:
        return []
    lines, outcomes = yield [("HMGET", place(batch_id), *found) for place in (lines_place, outcomes_place)]
    return [
        Entry(number, Line.model_validate_json(line), state, Outcome.model_validate_json(outcome or "{}"))
        for (number, state), line, outcome in zip(found.items(), lines, outcomes, strict=True)
    ]


def fail_item(item: Item, error: ReduxqError, state: State = Lot.WAITING) -> Program[None]:
    """Note that a waiting item cannot become a job, or that one in another state has lost its job."""
    outcome = Outcome(failure=Failure.of(error))
    yield from commit([is_in(item, state)], moved(item, state, JobStatus.FAILED, outcome))


def fail_attempt(item: Item, failed: int) -> Program[None]:
    """Note how often a waiting item could not become a job, for reasons that may pass."""
    outcome = Outcome(failed_attempts=failed)
    yield from commit([is_in(item)], moved(item, Lot.WAITING, Lot.WAITING, outcome))


def cancel(batch_id: BatchId, now: datetime) -> Program[Batch]:
    """End all items that wait; those that are jobs are the feeder's to cancel. One that has ended stays as it is."""
    waiting, canceled = (state_place(batch_id, state) for state in (Lot.WAITING, JobStatus.CANCELED))
    ended: list[Command] = [("ZUNIONSTORE", canceled, 2, canceled, waiting), ("DEL", waiting)]

    def end(old: Batch) -> Batch:
        return old if old.canceled_at or old.finished_at else _at(old, now, canceled_at=now)

    return (yield from update(batch_id, end, ended))


def retry(batch_id: BatchId, now: datetime) -> Program[Batch]:
    """Let failed and canceled items wait again; a batch without any stays as it is."""
    again = [state_place(batch_id, state) for state in AGAIN]
    if not sum((yield [("ZCARD", place) for place in again])):
        return (yield from update(batch_id, lambda old: old))
    waiting = state_place(batch_id, Lot.WAITING)
    back: list[Command] = [("ZUNIONSTORE", waiting, 1 + len(again), waiting, *again), ("DEL", *again)]
    return (
        yield from update(
            batch_id,
            lambda old: _at(old, now, canceled_at=None, finished_at=None, results_key=None, deliveries=()),
            back,
        )
    )


def plan_end(before: Batch, key: AssetKey, now: datetime) -> Program[Batch | None]:
    """Note where a batch's manifest is to be, and return the batch as it is then.

    From here on what became of its items stays as it is, unless they are tried again, which changes the batch; None if
    it changed meanwhile or has items that have not ended.
    """
    after = _at(before, now, results_key=key)
    planned = yield from _replace(before, after, _none_open(before.id), [])
    return after.model_copy(update={"version": before.version + 1}) if planned else None


def finish(batch_id: BatchId, version: int, now: datetime) -> Program[bool]:
    """End a batch whose manifest is stored, unless it changed meanwhile or has items that have not ended."""
    before = yield from get(batch_id)
    if before is None or before.version != version:
        return False
    after = telling(_at(before, now, finished_at=now), BatchEvent.FINISHED, now)
    return (yield from _replace(before, after, _none_open(batch_id), []))


def update(batch_id: BatchId, change: Change, besides: Sequence[Command] = ()) -> Program[Batch]:
    """Replace the record by ``change(record)``, run ``besides`` with it if that changes it, and return the new one.

    Raises:
        NotFound: If there is none.
    """
    while True:
        before = yield from get(batch_id)
        if before is None:
            raise NotFound(f"there is no batch {batch_id}")
        after = change(before)
        if after is before or (yield from _replace(before, after, [], besides)):
            return after


def living() -> Program[list[BatchId]]:
    """Return the batches that have not ended."""
    return sorted((yield ("SMEMBERS", LIVING)))


def living_count() -> Program[int]:
    """Return how many batches have not ended."""
    return int((yield ("SCARD", LIVING)))


def ended_before(until: datetime, limit: int) -> Program[list[BatchId]]:
    """Return batches that have ended and were accepted before."""
    found: list[BatchId] = yield lowest(ENDED, until.timestamp(), limit)
    return found


def forget(batch: Batch, now: datetime) -> Program[bool]:
    """Forget a batch that has ended, and have its manifest deleted; False if it changed meanwhile."""
    gone = batch.model_copy(update={"deliveries": (), "results_key": None, "updated_at": now})
    everything: list[Command] = [
        ("ZREM", ENDED, batch.id),
        ("ZREM", listed_place(batch.team_id), batch.id),
        ("HINCRBY", KEPT, batch.team_id, -batch.size_bytes),
        ("UNLINK", batch_place(batch.id), *places(batch.id)),
    ]
    return (yield from commit([_unchanged(batch)], [*told(batch, gone), *_left(batch, gone), *everything]))


def _replace(before: Batch, after: Batch, guards: Sequence[Bounds], besides: Sequence[Command]) -> Program[bool]:
    numbered = after.model_copy(update={"version": before.version + 1})
    return commit([_unchanged(before), *guards], [*effects(before, numbered), *besides])


def effects(before: Batch | None, after: Batch) -> list[Command]:
    """Return all commands that a change of a batch's record means; ``before`` is None for a new one."""
    fields = ("record", after.model_dump_json(by_alias=True), "version", after.version)
    commands: list[Command] = [("HSET", batch_place(after.id), *fields), *told(before, after), *_left(before, after)]
    everywhere = (LIVING, living_place(after.team_id))
    if not after.finished_at:
        return [*commands, *(("SADD", place, after.id) for place in everywhere), ("ZREM", ENDED, after.id)]
    gone: list[Command] = [("SREM", place, after.id) for place in everywhere]
    ended = ("XADD", COMPLETIONS, "MAXLEN", "~", COMPLETIONS_KEPT, "*", "id", after.id, "status", "finished")
    return [*commands, *gone, ("ZADD", ENDED, after.created_at.timestamp(), after.id), ended]


def _left(before: Batch | None, after: Batch) -> list[Command]:
    """Return the commands that have a manifest deleted that is not the batch's any more."""
    key = before.results_key if before else None
    return [orphan(key, after.updated_at)] if key and key != after.results_key else []


def _none_open(batch_id: BatchId) -> list[Bounds]:
    return [Bounds(("ZCARD", state_place(batch_id, state)), most=0) for state in OPEN]


def _unchanged(batch: Batch) -> Guard:
    return Guard(("HGET", batch_place(batch.id), "version"), str(batch.version))


def _at(batch: Batch, now: datetime, **fields: object) -> Batch:
    return batch.model_copy(update={"updated_at": now, **fields})


def accepted_us(batch: Batch) -> int:
    return int(batch.created_at.timestamp() * 1e6)


def listed_place(team_id: TeamId) -> str:
    return f"team:{team_id}:batches"


def living_place(team_id: TeamId) -> str:
    return f"team:{team_id}:batches:living"
