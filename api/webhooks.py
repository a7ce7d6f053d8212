"""Tells webhooks of their jobs and batches: signed, in a log, and again for a day until they take it.

A call is claimed by moving the time at which it is due: a process that dies in mid-call leaves it to the next. So a
receiver may be told twice, under the same id, and never not at all.
"""

import json
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from datetime import datetime, timedelta
from functools import partial
from threading import Event
from typing import Any, Final, NamedTuple

import redis
import structlog

from api.batch_view import batch_answer
from api.onemin_view import ai_record, instant
from shared import batch_store, dispatch_store, transitions
from shared.clock import Clock
from shared.connections import run
from shared.egress import Egress
from shared.errors import EgressFailed, EgressRefused, EgressUnavailable, Unavailable
from shared.ids import BatchId, JobId, TeamId
from shared.job_store import JobStore
from shared.jobs import AnyEvent, BatchEvent, Call, Delivery, Told, WebhookEvent
from shared.object_store import ObjectStore
from shared.programs import Program
from shared.settings import Settings
from shared.teams import get_user, webhook_secret
from shared.transitions import Subject
from shared.webhooks import message_id, sign, wait_after

log = structlog.get_logger(__name__)

THREADS: Final = 8  #: calls at a time
TEAM_THREADS: Final = 2  #: of them for one team: whose receivers are slow holds up nobody else
LOOKED_AT: Final = 1000  #: calls that are due
POSTPONED: Final = timedelta(minutes=1)  #: when a team's many calls hide others'
SETTLING: Final = timedelta(seconds=40)  #: how long after the longest call a claimed one is another's
PAUSE: Final = 0.5  #: seconds between two looks, at most
EVENTS: Final[dict[str, AnyEvent]] = {event.value: event for kind in (WebhookEvent, BatchEvent) for event in kind}


class Found(NamedTuple):
    """What a call is about."""

    record: Told
    data: dict[str, Any]  #: as its read answers it
    update: Callable[[Callable[[Any], Any]], Program[Any]]  #: replaces the record


class Deliverer:
    """Makes the calls that are due, round by round; any number may run at a time."""

    def __init__(
        self, settings: Settings, records: redis.Redis, egress: Egress, objects: ObjectStore, clock: Clock
    ) -> None:
        self._store = JobStore(settings.jobs.lease_seconds)
        self._claim = settings.egress.timeout_seconds + SETTLING
        self._records = records
        self._egress = egress
        self._objects = objects
        self._clock = clock
        self._calls: dict[Future[None], TeamId] = {}  #: under way

    def run(self, stop: Event) -> None:
        """Work until told to stop; a call that is under way then is waited for."""
        with ThreadPoolExecutor(THREADS, "webhook") as pool:
            while not stop.is_set():
                try:
                    self.round(pool)
                except Unavailable as error:
                    log.warning("waiting for a server", error=error.message)
                except Exception:
                    log.exception("a round failed")
                self._pause(stop)

    def _pause(self, stop: Event) -> None:
        """Wait until it is time to look again: when a call ends, for a team's next may wait for that."""
        if self._calls:
            wait_for(self._calls, PAUSE, FIRST_COMPLETED)
        else:
            self._clock.wait(stop, PAUSE)

    def round(self, pool: Executor) -> None:
        """Begin to make the calls that are due, as far as there is room."""
        self._calls = {call: team for call, team in self._calls.items() if _goes_on(call)}
        now, crowd = self._clock.now(), []
        due = run(self._records, dispatch_store.due_deliveries(now, LOOKED_AT))
        for name, at in due:
            team, subject, event = name.split(" ")
            teams = list(self._calls.values())
            if len(teams) == THREADS:
                break
            if teams.count(TeamId(team)) == TEAM_THREADS:
                crowd.append(name)
            elif run(self._records, dispatch_store.claim_delivery(name, at, now + self._claim)):
                self._calls[pool.submit(self.deliver, subject, EVENTS[event])] = TeamId(team)
        if len(due) == LOOKED_AT:
            run(self._records, dispatch_store.postpone_deliveries(crowd, now + POSTPONED))

    def deliver(self, subject: str, event: AnyEvent) -> None:
        """Make a call that was claimed and note how it went; after an error it is due again when the claim ends."""
        found = self._find(subject, event)
        webhook, told = (found.record.webhook, _told(found.record, event)) if found else (None, None)
        if not (found and webhook and told):
            return  # the job was deleted
        at = self._clock.now()
        status, outcome = self._post(webhook.url, *self._message(found, told, at))
        log.info("called a webhook", subject=subject, webhook_event=event, outcome=outcome)
        ok = status is not None and status // 100 == 2  # noqa: PLR2004  HTTP's successes
        wait = None if ok else wait_after(len(told.calls) + 1, status)
        call = Call(at=at, outcome=outcome)
        next_at = None if wait is None else self._clock.now() + wait
        run(self._records, found.update(partial(_note, told=told, made=call, next_at=next_at, ok=ok)))

    def _find(self, subject: str, event: AnyEvent) -> Found | None:
        """Return the job or the batch that a call is about; None if it is gone."""
        if event is BatchEvent.FINISHED:
            batch = run(self._records, batch_store.report(BatchId(subject)))
            if batch is None:
                return None
            shown = batch_answer(batch, self._objects)
            return Found(batch.batch, shown, partial(batch_store.update, batch.batch.id))
        job = run(self._records, self._store.report(JobId(subject)))
        if job is None:
            return None
        shown = ai_record(job, run(self._records, get_user(job.record.user_id)), self._objects)
        return Found(job.record, shown, partial(self._store.update, job.record.id))

    def _message(self, found: Found, told: Delivery, at: datetime) -> tuple[bytes, dict[str, str]]:
        """Return what happened and when, with the record as it is now, and the headers that sign it."""
        record = found.record
        body = json.dumps({"type": told.event, "timestamp": instant(told.at), "data": found.data}).encode()
        secret = run(self._records, webhook_secret(record.team_id))
        return body, {"Content-Type": "application/json", **sign(secret, message_id(record.id, told), at, body)}

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int | None, str]:
        """Return the status of the answer, None if there was none, and how the call went in words."""
        try:
            status = self._egress.post(url, body, headers)
        except (EgressRefused, EgressFailed, EgressUnavailable) as error:
            return None, error.message
        return status, f"HTTP {status}"


def _told(record: Told, event: AnyEvent) -> Delivery | None:
    return next((delivery for delivery in record.deliveries if delivery.event is event), None)


def _note(record: Subject, *, told: Delivery, made: Call, next_at: datetime | None, ok: bool) -> Subject:
    """Note a call, unless the event happened again meanwhile, which makes it another message.

    If another call was asked for or made meanwhile, what is to come is not this one's to say.
    """
    now = _told(record, told.event)
    if now is None or now.at != told.at:
        return record
    next_at = next_at if now.next_at == told.next_at else now.next_at
    return transitions.delivered(record, event=told.event, made=made, next_at=next_at, ok=ok or now.delivered)


def _goes_on(call: Future[None]) -> bool:
    """Return whether a call is under way; tell why one failed without a note."""
    if call.done() and (error := call.exception()):
        log.warning("a webhook call was not noted", exc_info=error)
    return not call.done()
