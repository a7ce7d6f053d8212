"""How a batch comes: its items are staged line by line, where nobody sees them, and accepted all at once."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, NamedTuple

from shared import idempotency, teams
from shared.batch_store import KEPT, accepted_us, effects, listed_place, living_place
from shared.batches import Batch, Line, Lot, Outcome, batch_place, lines_place, outcomes_place, places, state_place
from shared.errors import InvalidRequest, TooManyRequests
from shared.idempotency import Once
from shared.ids import BatchId
from shared.jobs import Failure
from shared.programs import Bounds, Command, Guard, Program, broken_guard, commit
from shared.settings import TeamsSettings

STAGED: Final = timedelta(hours=1)  #: how long items of a batch are kept that never was accepted
ROOM: Final = 60  #: seconds until a team with too many batches may try again
KEPT_LONG: Final = 3600  #: seconds, if it is those that have ended that take too much


class Staged(NamedTuple):
    """An item to be."""

    line: Line
    failure: Failure | None = None  #: why it cannot become a job


def stage(batch_id: BatchId, items: Mapping[int, Staged]) -> Program[None]:
    """Store items of a batch by line; nobody sees them yet, and they are forgotten if it is not accepted."""
    stored: list[Command] = []
    for number, (line, failure) in items.items():
        state = Lot.INVALID if failure else Lot.WAITING
        stored.append(("HSET", lines_place(batch_id), number, line.model_dump_json(exclude_defaults=True)))
        stored.append(("ZADD", state_place(batch_id, state), number, number))
        if failure:
            stored.append(("HSET", outcomes_place(batch_id), number, Outcome(failure=failure).model_dump_json()))
    # In one step: what a connection that breaks leaves of a list of commands might never be forgotten.
    forgotten: list[Command] = [("EXPIRE", place, int(STAGED.total_seconds())) for place in places(batch_id)]
    yield from commit([_unseen(batch_id)], [*stored, *forgotten])


def unstage(batch_id: BatchId) -> Program[None]:
    """Forget staged items at once, unless their batch was accepted."""
    yield from commit([_unseen(batch_id)], [("UNLINK", *places(batch_id))])


def accept(batch: Batch, total: int, price: int, *, limits: TeamsSettings, once: Once | None) -> Program[BatchId]:
    """Make a staged batch seen, unless the same request made one earlier; return the one that stands.

    Args:
        batch: Its record.
        total: How many items were staged.
        price: Of all of them, which its team must have; it is not reserved.
        limits: How many batches its team may have that have not ended, and how large they all may be together.
        once: What makes the request the same when it is sent again.

    Raises:
        InvalidRequest: If its first items are forgotten.
        InsufficientCredits: If its team or user cannot pay for it.
        TooManyRequests: If its team has too many batches, or too large ones.
        IdempotencyKeyReused: If the earlier request asked for something else.
    """
    new = _unseen(batch.id)
    whole = Bounds(("HLEN", lines_place(batch.id)), total, total)
    first, remember = idempotency.mark(once, batch.id)
    room = Bounds(("SCARD", living_place(batch.team_id)), most=limits.open_batches - 1)
    space = Bounds(("HGET", KEPT, batch.team_id), most=limits.batch_bytes - batch.size_bytes)
    payer = (batch.team_id, batch.caller.user_id, price)
    kept: list[Command] = [("PERSIST", place) for place in places(batch.id)]
    kept.append(("ZADD", listed_place(batch.team_id), accepted_us(batch), batch.id))
    kept.append(("HINCRBY", KEPT, batch.team_id, batch.size_bytes))
    broken = yield from broken_guard(
        [new, *first, whole, room, space, *teams.affords(*payer)], [*effects(None, batch), *kept, *remember]
    )
    if broken in {None, new}:  # it is stored, now or when this was sent for the first time
        return batch.id
    if broken in first:
        yield ("UNLINK", *places(batch.id))
        return BatchId((yield from idempotency.find(once)) or "")
    if broken == room:
        raise TooManyRequests(
            f"the team has {limits.open_batches} batches that have not ended, the most that are allowed",
            retry_after=ROOM,
        )
    if broken == space:
        message = f"the team's batches take more than {limits.batch_bytes} bytes; DELETE some that have ended"
        raise TooManyRequests(message, retry_after=KEPT_LONG)
    if broken == whole:
        raise InvalidRequest(f"body: nothing came for longer than {STAGED}, and what had come is forgotten")
    raise (yield from teams.explain_refusal(*payer))


def _unseen(batch_id: BatchId) -> Guard:
    return Guard(("HGET", batch_place(batch_id), "version"), "")
