"""Batches and their items as clients read them."""

import json
from collections.abc import Iterable
from typing import Any, Final

from api.onemin_view import delivery_shown, instant
from shared.batch_store import BatchReport, Entry
from shared.batches import Lot, State
from shared.errors import Canceled
from shared.jobs import JobStatus
from shared.object_store import ObjectStore

ITEMS: Final[dict[State, str]] = {
    Lot.WAITING: "WAITING",
    JobStatus.QUEUED: "WAITING",
    JobStatus.RUNNING: "PROCESSING",
    JobStatus.SUCCEEDED: "SUCCESS",
    JobStatus.FAILED: "FAILURE",
    Lot.INVALID: "FAILURE",
    JobStatus.CANCELED: "CANCELED",
}
COUNTED: Final = {
    "WAITING": "waiting",
    "PROCESSING": "processing",
    "SUCCESS": "succeeded",
    "FAILURE": "failed",
    "CANCELED": "canceled",
}


def batch_answer(report: BatchReport, objects: ObjectStore) -> dict[str, Any]:
    """Return ``{"batch": ...}``; its link is signed now."""
    batch, of = report.batch, report.counts.of
    ended = "CANCELED" if batch.canceled_at else "SUCCESS"
    counts = {name: sum(of[state] for state in ITEMS if ITEMS[state] == word) for word, name in COUNTED.items()}
    shown = {
        "uuid": batch.id,
        "status": ended if batch.finished_at else "PROCESSING",
        "priority": "low" if batch.low_priority else "normal",
        "metadata": json.loads(batch.metadata),
        "counts": {"total": sum(of.values()), **counts},
        "price": {"charged": report.charged},
        "createdAt": instant(batch.created_at),
        "updatedAt": instant(batch.updated_at),
        "finishedAt": instant(batch.finished_at) if batch.finished_at else None,
        "resultsUrl": objects.sign(batch.results_key) if batch.finished_at and batch.results_key else None,
        "webhookDeliveries": [delivery_shown(batch, delivery) for delivery in batch.deliveries],
    }
    return {"batch": shown}


def item_shown(entry: Entry) -> dict[str, Any]:
    """Return an item as a list shows it."""
    outcome, error = entry.outcome, entry.outcome.failure
    waiting, canceled = entry.state is Lot.WAITING, entry.state is JobStatus.CANCELED
    told = {"code": error.code, "message": error.message} if error and not waiting else None
    return {
        "line": entry.number,
        "customId": entry.line.custom_id,
        "status": ITEMS[entry.state],
        "recordId": None if waiting else outcome.record_id,
        "error": {"code": Canceled.code, "message": Canceled.__doc__} if canceled else told,
    }


def manifest_lines(entries: Iterable[Entry], objects: ObjectStore) -> bytes:
    """Return items with what came out of them, a line of JSON for each; their links are signed now."""
    return b"".join(json.dumps(_result(entry, objects)).encode() + b"\n" for entry in entries)


def _result(entry: Entry, objects: ObjectStore) -> dict[str, Any]:
    outcome = entry.outcome
    shown = item_shown(entry)
    error = shown.pop("error")
    urls = [objects.sign(key) for key in outcome.keys]
    flagged = [withheld.model_dump() for withheld in outcome.flagged]
    return {**shown, "keys": outcome.keys, "urls": urls, "seeds": outcome.seeds, "flagged": flagged, "error": error}
