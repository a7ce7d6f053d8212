"""What must hold at every step, and at the end."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from shared.batches import STATES, batch_place, lines_place, outcomes_place, state_place
from shared.ids import AssetKey, BatchId
from shared.job_index import BACKLOG, COMPLETIONS, PUBLISHED
from shared.jobs import JobStatus, Lane

if TYPE_CHECKING:
    from tests.sim.servers import Records

ENDED: Final = frozenset({"succeeded", "failed", "canceled"})
MOVES: Final = frozenset(
    {
        ("queued", "running"),
        ("queued", "failed"),
        ("queued", "canceled"),
        ("running", "queued"),
        ("running", "succeeded"),
        ("running", "failed"),
        ("running", "canceled"),
        ("failed", "queued"),
    }
)
CREDIT: Final = 10_000_000  #: of the team and its user at first
Fields = dict[str, Any]


class Checks:
    """Follows every record."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self.bucket: dict[AssetKey, bytes] = {}
        self.records: dict[str, Fields] = {}
        self.published: dict[AssetKey, str] = {}  #: by key, the job of each variation that stands in a record
        self.deleting: set[str] = set()  #: jobs whose owner asked to have them deleted
        self.retried: set[str] = set()  #: failed jobs that an operator asked to try again
        self.ends: Counter[str] = Counter()
        self.told_ends: Counter[str] = Counter()
        self.open: set[str] = set()  #: jobs that wait or run
        self.batches: dict[str, Fields] = {}
        self.open_batches: set[str] = set()
        self.canceling: set[str] = set()  #: batches whose owner asked to have them canceled
        self._owed = 0
        self._dirty = False

    def require(self, held: object, what: str) -> None:
        if not held:
            self._fail(what)

    def record_changed(self, key: str, before_text: str | None, after_text: str) -> None:
        before, after = json.loads(before_text) if before_text else None, json.loads(after_text)
        job_id = after["id"]
        self._owed += _owes(after) - (_owes(before) if before else 0)
        self._dirty = True
        self.records[job_id] = after
        (self.open.discard if after["status"] in ENDED else self.open.add)(job_id)
        if before is None:
            self.require(after["status"] == "queued" and after["attempt"] == 0, f"{job_id} was born {after['status']}")
            return
        self._compare(job_id, before, after)
        if after["status"] in ENDED and before["status"] not in ENDED:
            self.ends[job_id] += 1
        for variation in after["variations"]:
            self.published[variation["key"]] = job_id
            planned = variation["key"] in after["planned_keys"]
            self.require(planned, f"{job_id}: attempt {after['attempt']} published another's variation")
            self.require(variation["key"] in self.bucket, f"{job_id}: published without its object")
        if after["erased_at"]:
            for variation in before["variations"]:
                self.published.pop(variation["key"], None)

    def batch_changed(self, text: str) -> None:
        batch = json.loads(text)
        self.batches[batch["id"]] = batch
        (self.open_batches.discard if batch["finished_at"] else self.open_batches.add)(batch["id"])

    def taken_back(self, before_text: str | None, after_text: str) -> None:
        """A dispatcher changed a record while its lease was held."""
        before, after = json.loads(before_text or "{}"), json.loads(after_text)
        silent = before and after["failed_attempts"] > before["failed_attempts"]
        self.require(not silent, f"{after['id']} was taken from a living worker")

    def told(self, key: str, parts: Sequence[str]) -> None:
        if key == COMPLETIONS:
            self.told_ends[parts[parts.index("id") + 1]] += 1

    def committed(self, records: "Records") -> None:
        for batch_id in self.batches:
            self._check_items(records, BatchId(batch_id))
        if not self._dirty:
            return
        self._dirty = False
        self._check_indices(records)
        team = int(records.data["team:team"]["credit"])
        user = int(records.data["user:user"]["credit_left"])
        self.require(team == user == CREDIT - self._owed, f"credits: {team}, {user}, owed {self._owed}")

    def _check_indices(self, records: "Records") -> None:
        """Require of the indices that they hold each job where its record says it is, and its work once."""
        data, by_status = records.data, defaultdict[str, set[str]](set)
        for job_id, job in self.records.items():
            by_status[job["status"]].add(job_id)
        for name in (*JobStatus, "open"):
            wanted = self.open if name == "open" else by_status[name]
            scopes = [scope for scope in ("jobs", "team:team") if (scope, name) != ("jobs", "open")]
            found = {scope: set(data.get(f"{scope}:{name}", ())) for scope in scopes}
            self.require(all(there == wanted for there in found.values()), f"{name}: {found} instead of {wanted}")
        queues = {queue: sorted(data.get(f"queue:{queue}", ())) for queue in (f"{lane}:team" for lane in Lane)}
        places = [job_id for there in (*queues.values(), data.get(PUBLISHED, ())) for job_id in there]
        self.require(sorted(places) == sorted(by_status["queued"]), f"queued jobs stand in {queues} and {places}")
        work = Counter[str]()
        for job_id in by_status["queued"]:
            stored = data[f"job:{job_id}"]
            work[f"{stored['lane']}:team"] += int(stored["work"])
        counted = Counter({queue: int(there) for queue, there in data.get(BACKLOG, {}).items() if int(there)})
        self.require(counted == work, f"queued work is {counted} instead of {work}")

    def _check_items(self, records: "Records", batch_id: BatchId) -> None:
        """Require that each item is in one state, that of its job if it is one, and that their cost is the batch's."""
        sets = {state: records.data.get(state_place(batch_id, state), {}) for state in STATES}
        standing = [member for members in sets.values() for member in members]
        lines = records.data[lines_place(batch_id)]
        whole = len(standing) == len(lines) and lines.keys() == set(standing)
        self.require(whole, f"batch {batch_id}: items stand in {sets}")
        outcomes = records.data.get(outcomes_place(batch_id), {})
        jobs = {line: self.records.get(json.loads(text)["record_id"]) for line, text in outcomes.items()}
        for state in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED):
            same = all((job := jobs.get(line)) and job["status"] == state for line in sets[state])
            self.require(same, f"batch {batch_id}: items are {state} and their jobs are not")
        own = [job for job in self.records.values() if job["item"] and job["item"]["batch_id"] == batch_id]
        open_ones = {job["id"] for job in own if job["status"] not in ENDED}
        going_on = sets[JobStatus.QUEUED] | sets[JobStatus.RUNNING]
        known = {job["id"] for line, job in jobs.items() if job and line in going_on}
        self.require(open_ones == known, f"batch {batch_id}: jobs {open_ones} are open, and items are {known}")
        charged = int(records.data[batch_place(batch_id)].get("charged", 0))
        self.require(charged == sum(job["charged"] for job in own), f"batch {batch_id}: {charged} charged")

    def about_to_put(self, key: AssetKey) -> None:
        self.require(key not in self.published, f"{key} is published and written again")

    def about_to_delete(self, key: AssetKey) -> None:
        job_id = self.published.get(key)
        self.require(job_id is None or job_id in self.deleting, f"{key} is published and deleted")

    def _compare(self, job_id: str, before: Fields, after: Fields) -> None:
        old, new = before["status"], after["status"]
        self.require(old == new or (old, new) in MOVES, f"{job_id}: {old} became {new}")
        self.require(after["version"] == before["version"] + 1, f"{job_id}: version {after['version']}")
        started = after["attempt"] - before["attempt"]
        self.require(started == (new == "running" and old != new), f"{job_id}: attempt grew by {started}")
        again = (old, new) == ("failed", "queued")
        self.require(not again or job_id in self.retried, f"{job_id}: tried again though nobody asked")
        failed = after["failed_attempts"] - before["failed_attempts"]
        self.require(again or failed in {0, 1}, f"{job_id}: failed attempts grew by {failed}")
        if old in ENDED and not again:
            kept = ("status", "charged", "finished_at", "failure", "attempt")
            self.require(all(before[name] == after[name] for name in kept), f"{job_id}: changed after its end")
            same = before["variations"] == after["variations"]
            self.require(same or after["erased_at"], f"{job_id}: other variations after its end")
        asked = job_id in self.deleting or (after["item"] and after["item"]["batch_id"] in self.canceling)
        self.require(new != "canceled" or asked, f"{job_id}: canceled though nobody asked")


def _owes(record: Fields) -> int:
    return int(record["charged"] if record["status"] in ENDED else record["price"])
