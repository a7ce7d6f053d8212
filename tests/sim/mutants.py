"""Mistakes that somebody could make in our code, each of which the simulation must find."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from api import batch_feeder, webhooks
from api.dispatcher import Dispatcher
from shared import batch_intake, batch_store, batches, idempotency, job_index, job_store, programs, transitions
from shared.errors import IllegalTransition, LeaseLost, RecordsUnavailable
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.programs import Bounds
from worker.lease import LeaseKeeper
from worker.runner import Runner

Mutant = Callable[[], AbstractContextManager[Any]]


def finish_by_anybody() -> AbstractContextManager[Any]:
    """An attempt that lost its job ends it all the same."""

    def require_running(record: JobRecord, attempt: int) -> None:
        if record.status is not JobStatus.RUNNING:
            raise LeaseLost

    return patch.object(transitions, "_require_held", require_running)


def finish_only_once() -> AbstractContextManager[Any]:
    """A finish whose answer was lost is refused when it is sent again."""
    finish = transitions.finish

    def strict(record: JobRecord, *, attempt: int, **made: Any) -> JobRecord:
        if record.finished:
            raise LeaseLost
        return finish(record, attempt=attempt, **made)

    return patch.object(transitions, "finish", strict)


def claim_what_runs() -> AbstractContextManager[Any]:
    """A message that came twice starts a second attempt beside the first."""
    claim = transitions.claim

    def greedy(record: JobRecord, **planned: Any) -> JobRecord:
        if record.finished:
            raise IllegalTransition
        return claim(record.model_copy(update={"status": JobStatus.QUEUED}), **planned)

    return patch.object(transitions, "claim", greedy)


def take_back_the_living() -> AbstractContextManager[Any]:
    """A job is taken back without a look at its lease."""
    held = JobStore.running

    def all_lost(store: JobStore) -> Any:
        held_now, lost = yield from held(store)
        return held_now, held_now + lost

    return patch.multiple(JobStore, take_back=JobStore.update, running=all_lost)


def no_quiet_lease() -> AbstractContextManager[Any]:
    """After a restart of the records server every lease that lapsed meanwhile counts."""
    return patch.object(Dispatcher, "_leases_can_be_trusted", lambda *_: True)


def versions_ignored() -> AbstractContextManager[Any]:
    """A change overwrites another that came between."""
    version_is = job_store._version_is

    def any_version(version: str, job_id: Any) -> Any:
        return version_is(version, job_id)._replace(command=("GET", "nothing"), expected="")

    return patch.object(job_store, "_version_is", any_version)


def give_back_twice() -> AbstractContextManager[Any]:
    """What a job did not use comes back whenever its record changes after its end."""
    reserved = job_index.reserved

    def forgetful(record: JobRecord) -> int:
        return 0 if record.erased_at else reserved(record)

    return patch.object(job_index, "reserved", forgetful)


def keys_forgotten() -> AbstractContextManager[Any]:
    """Twins of a request do not see each other."""
    mark = idempotency.mark

    def careless(once: Any, made: str, **_: Any) -> Any:
        return [], mark(once, made)[1]

    return patch.object(idempotency, "mark", careless)


def never_again() -> AbstractContextManager[Any]:
    """A message that was lost is not sent again."""
    return patch.object(Dispatcher, "_publish_again", lambda *_: None)


def lost_jobs_stay_lost() -> AbstractContextManager[Any]:
    """A job whose worker died is nobody's."""
    return patch.object(Dispatcher, "_take_back_lost_jobs", lambda *_: None)


def handed_back_as_failed() -> AbstractContextManager[Any]:
    """A worker that leaves in peace costs its jobs an attempt."""
    hand_back = transitions.hand_back

    def blame(record: JobRecord, **given: Any) -> JobRecord:
        after = hand_back(record, **given)
        return after.model_copy(update={"failed_attempts": after.failed_attempts + (after is not record)})

    return patch.object(transitions, "hand_back", blame)


def discard_when_unsure() -> AbstractContextManager[Any]:
    """A worker that does not hear whether its finish arrived removes what it stored."""
    settle = Runner._settle

    def hasty(self: Runner, record: JobRecord, ending: Any) -> JobRecord:
        try:
            self.update(record.id, partial(ending, attempt=record.attempt, now=self.clock.now()), record)
        except RecordsUnavailable:
            self._discard(record)
        return settle(self, record, ending)

    return patch.object(Runner, "_settle", hasty)


def renew_nothing() -> AbstractContextManager[Any]:
    """Leases lapse while their jobs run."""
    return patch.object(LeaseKeeper, "_renew", lambda *_: None)


def orphans_forgotten() -> AbstractContextManager[Any]:
    """Nobody remembers where a lost attempt may have written."""
    return patch.object(JobRecord, "unpublished_keys", frozenset())


def webhook_called_once() -> AbstractContextManager[Any]:
    """A webhook that does not answer the first time is given up."""
    return patch.object(webhooks, "wait_after", lambda *_: None)


def items_made_twice() -> AbstractContextManager[Any]:
    """An item becomes a job though it does not wait any more."""
    return patch.object(batches, "is_in", lambda *_: Bounds(("GET", "nothing")))


def outcomes_lost() -> AbstractContextManager[Any]:
    """An item hears of the end of its job in a step of its own, which a crash may leave out."""
    job_moved = batches.job_moved

    def deaf(before: Any, after: JobRecord) -> Any:
        return [] if after.failed_attempts and after.finished else job_moved(before, after)

    return patch.object(batches, "job_moved", deaf)


def ended_too_early() -> AbstractContextManager[Any]:
    """A batch ends by counts that were read while items moved."""
    return patch.object(batch_store, "_none_open", lambda *_: [])


def one_manifest_for_all_ends() -> AbstractContextManager[Any]:
    """A manifest that comes late overwrites a newer one."""
    return patch.object(batch_feeder, "token_hex", lambda *_: "same")


def items_left_in_a_list() -> AbstractContextManager[Any]:
    """Lines are staged command by command, so that a death in between leaves some that are never forgotten."""
    commit = programs.commit

    def listed(guards: Any, effects: Any) -> Any:
        staging = any(effect[0] == "EXPIRE" for effect in effects)
        return (yield effects) if staging else (yield from commit(guards, effects))

    return patch.object(batch_intake, "commit", listed)


MUTANTS: Final[tuple[Mutant, ...]] = (
    finish_by_anybody,
    finish_only_once,
    claim_what_runs,
    take_back_the_living,
    no_quiet_lease,
    versions_ignored,
    give_back_twice,
    keys_forgotten,
    never_again,
    lost_jobs_stay_lost,
    handed_back_as_failed,
    discard_when_unsure,
    renew_nothing,
    orphans_forgotten,
    webhook_called_once,
    items_made_twice,
    outcomes_lost,
    ended_too_early,
    one_manifest_for_all_ends,
    items_left_in_a_list,
)
