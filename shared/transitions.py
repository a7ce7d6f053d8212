"""What can happen to a job, as pure functions.

A transition takes a record and gives the next one, or raises; it may run more than once, and for the attempt that it
was made for it changes nothing the second time. Those that an attempt makes raise ``LeaseLost`` when another attempt
owns the job or ended it. What a change means for indices, leases and credits follows from the two records alone and is
worked out where they are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from math import ceil
from typing import TypeVar

from shared.errors import (
    Canceled,
    ContentFlagged,
    DeadlineExceeded,
    IllegalTransition,
    LeaseLost,
    NotFound,
    ReduxqError,
    TooManyAttempts,
)
from shared.ids import AssetKey
from shared.jobs import (
    AnyEvent,
    Call,
    Delivery,
    Failure,
    Flagged,
    JobRecord,
    JobStatus,
    ModelIdentity,
    Told,
    Variation,
    WebhookEvent,
    key_stamp,
)

Transition = Callable[[JobRecord], JobRecord]
Subject = TypeVar("Subject", bound=Told)


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
    stamp, extension = key_stamp(now), record.parameters.output_format
    names = (AssetKey(f"{prefix}images/{stamp}_{n:06d}.{extension}") for n in digits)
    planned = tuple(names)[: record.parameters.num_outputs]
    if record.status is JobStatus.RUNNING and record.planned_keys == planned:  # this very claim, sent again
        return record
    if record.status is not JobStatus.QUEUED:
        raise IllegalTransition(f"job {record.id} is {record.status}, not queued")
    claimed = _changed(record, attempt=record.attempt + 1, started_at=now, planned_keys=planned)
    started = _moved(claimed, JobStatus.RUNNING, now)
    return started if record.attempt else telling(started, WebhookEvent.STARTED, now)


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

    With every variation flagged it is a failure.
    """
    if record.finished and record.model and record.attempt == attempt:  # only this transition tells the model
        return record
    _require_held(record, attempt)
    made = _changed(record, flagged=flagged, model=model, timings=timings)
    if flagged and not variations:
        scores = ", ".join(f"{withheld.score:g}" for withheld in flagged)
        return _failed(made, ContentFlagged(f"{ContentFlagged.__doc__} Scores: {scores}"), now)
    charged = ceil(Fraction(record.price * len(variations), record.parameters.num_outputs))
    return _ended(_changed(made, variations=variations, charged=charged), JobStatus.SUCCEEDED, now)


def fail(record: JobRecord, *, attempt: int, error: ReduxqError, now: datetime) -> JobRecord:
    """End the job for good."""
    if record.status is JobStatus.FAILED and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    return _failed(record, error, now)


def cancel(record: JobRecord, *, now: datetime) -> JobRecord:
    """End the job because its owner wants that; one that has ended stays as it is."""
    return record if record.finished else _failed(record, Canceled(), now, JobStatus.CANCELED)


def expire(record: JobRecord, *, now: datetime) -> JobRecord:
    """End the job if its deadline has passed."""
    if record.expires_at is None or now < record.expires_at:
        return record
    queued = record.status is JobStatus.QUEUED
    limit, what = (record.max_queue, "waited") if queued else (record.max_run, "ran")
    seconds = limit.total_seconds() if limit else 0
    return _failed(record, DeadlineExceeded(f"the job {what} longer than the {seconds:g} s that it may"), now)


def retry(record: JobRecord, *, now: datetime) -> JobRecord:
    """Put a failed job back into the queue, as an operator asks for it when the cause is gone.

    Raises:
        IllegalTransition: If the job has not failed, was erased, or is a batch's, whose items may be others by now.
    """
    if record.status is JobStatus.QUEUED:
        return record
    if record.item:
        batch = record.item.batch_id
        raise IllegalTransition(
            f"job {record.id} is of batch {batch}; POST /api/batches/{batch}/retry tries that again"
        )
    if record.status is not JobStatus.FAILED or record.erased_at:
        what = "was deleted" if record.erased_at else f"is {record.status}"
        raise IllegalTransition(f"job {record.id} {what}; only one that has failed can be tried again")
    fresh = _changed(
        record,
        failed_attempts=0,
        failure=None,
        finished_at=None,
        model=None,
        flagged=(),
        timings={},
        max_queue=None,
        deliveries=_others(record, WebhookEvent.FINISHED),
    )
    return _moved(fresh, JobStatus.QUEUED, now)


def erase(record: JobRecord, *, now: datetime) -> JobRecord:
    """Leave a tombstone: who paid how much, when and why it ended, but nothing of what was sent or made.

    Raises:
        IllegalTransition: If the job has not ended.
    """
    if record.erased_at:
        return record
    if not record.finished:
        raise IllegalTransition(f"job {record.id} is {record.status}; only one that has ended can be erased")
    sent = {"prompt_object": "{}", "metadata": "null", "conversation_id": None, "end_user": None}
    return _changed(
        record,
        parameters=record.parameters.model_copy(update={"source": AssetKey("")}),
        echo=record.echo.model_copy(update=sent),
        variations=(),
        flagged=(),
        planned_keys=(),
        webhook=None,
        deliveries=(),
        erased_at=now,
    )


def hand_back(record: JobRecord, *, attempt: int, now: datetime) -> JobRecord:
    """Put an attempt that its worker gave up unharmed back into the queue; it counts as no failure."""
    if record.status is JobStatus.QUEUED and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    return _moved(record, JobStatus.QUEUED, now)


def fail_attempt(record: JobRecord, *, attempt: int, reason: str, limit: int, now: datetime) -> JobRecord:
    """Put the job back into the queue, or end it when ``limit`` attempts have failed."""
    if record.status in {JobStatus.QUEUED, JobStatus.FAILED} and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    failed = record.failed_attempts + 1
    counted = _changed(record, failed_attempts=failed)
    if failed >= limit:
        return _failed(counted, TooManyAttempts(f"{failed} attempts failed; the last: {reason}"), now)
    return _moved(counted, JobStatus.QUEUED, now)


def delivered(record: Subject, *, event: AnyEvent, made: Call, next_at: datetime | None, ok: bool) -> Subject:
    """Note one call of a webhook and when the next is due; one that was noted already changes nothing."""
    return _replaced(
        record,
        event,
        lambda old: (
            old
            if made in old.calls
            else old.model_copy(update={"calls": (*old.calls, made), "next_at": next_at, "delivered": ok})
        ),
    )


def redeliver(record: JobRecord, *, event: WebhookEvent, now: datetime) -> JobRecord:
    """Have the job's webhook told once more.

    Raises:
        NotFound: If it was never told of this event.
    """
    if all(delivery.event is not event for delivery in record.deliveries):
        raise NotFound(f"job {record.id} has no webhook that is told of {event}")
    return _replaced(record, event, lambda old: old.model_copy(update={"next_at": now}))


def _replaced(record: Subject, event: AnyEvent, change: Callable[[Delivery], Delivery]) -> Subject:
    changed = (change(delivery) if delivery.event is event else delivery for delivery in record.deliveries)
    return _changed(record, deliveries=tuple(changed))


def _require_held(record: JobRecord, attempt: int) -> None:
    if record.status is not JobStatus.RUNNING or record.attempt != attempt:
        raise LeaseLost(f"attempt {attempt} no longer owns job {record.id} ({record.status}, attempt {record.attempt})")


def _failed(record: JobRecord, error: ReduxqError, now: datetime, status: JobStatus = JobStatus.FAILED) -> JobRecord:
    return _ended(_changed(record, failure=Failure.of(error)), status, now)


def _ended(record: JobRecord, status: JobStatus, now: datetime) -> JobRecord:
    return telling(_moved(_changed(record, finished_at=now), status, now), WebhookEvent.FINISHED, now)


def telling(record: Subject, event: AnyEvent, now: datetime) -> Subject:
    """Have the webhook told of an event, if it wants to be."""
    if record.webhook is None or event not in record.webhook.events:
        return record
    return _changed(record, deliveries=(*_others(record, event), Delivery(event=event, at=now, next_at=now)))


def _others(record: Told, event: AnyEvent) -> tuple[Delivery, ...]:
    return tuple(delivery for delivery in record.deliveries if delivery.event is not event)


def _moved(record: JobRecord, status: JobStatus, now: datetime) -> JobRecord:
    return _changed(record, status=status, status_at=now)


def _changed(record: Subject, **fields: object) -> Subject:
    return record.model_copy(update=fields)
