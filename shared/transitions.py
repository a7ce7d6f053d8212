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

from shared.errors import Canceled, ContentFlagged, IllegalTransition, LeaseLost, ReduxqError, TooManyAttempts
from shared.ids import AssetKey
from shared.jobs import Failure, Flagged, JobRecord, JobStatus, ModelIdentity, Variation, key_stamp

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
        abandoned_keys=record.abandoned_keys + record.planned_keys,
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
    return _changed(made, status=JobStatus.SUCCEEDED, finished_at=now, variations=variations, charged=charged)


def fail(record: JobRecord, *, attempt: int, error: ReduxqError, now: datetime) -> JobRecord:
    """End the job for good."""
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
        abandoned_keys=(),
        erased_at=now,
    )


def hand_back(record: JobRecord, *, attempt: int) -> JobRecord:
    """Put an attempt that its worker gave up unharmed back into the queue; it counts as no failure."""
    if record.status is JobStatus.QUEUED and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    return _changed(record, status=JobStatus.QUEUED)


def fail_attempt(record: JobRecord, *, attempt: int, reason: str, limit: int, now: datetime) -> JobRecord:
    """Put the job back into the queue, or end it when ``limit`` attempts have failed."""
    if record.status in {JobStatus.QUEUED, JobStatus.FAILED} and record.attempt == attempt:
        return record
    _require_held(record, attempt)
    failed = record.failed_attempts + 1
    counted = _changed(record, failed_attempts=failed)
    if failed >= limit:
        return _failed(counted, TooManyAttempts(f"{failed} attempts failed; the last: {reason}"), now)
    return _changed(counted, status=JobStatus.QUEUED)


def _require_held(record: JobRecord, attempt: int) -> None:
    if record.status is not JobStatus.RUNNING or record.attempt != attempt:
        raise LeaseLost(f"attempt {attempt} no longer owns job {record.id} ({record.status}, attempt {record.attempt})")


def _failed(record: JobRecord, error: ReduxqError, now: datetime) -> JobRecord:
    failure = Failure(code=error.code, name=type(error).__name__, message=error.message)
    return _changed(record, status=JobStatus.FAILED, finished_at=now, failure=failure)


def _changed(record: JobRecord, **fields: object) -> JobRecord:
    return record.model_copy(update=fields)
