"""Webhook calls over real TLS, with records on a real Valkey; the standard's own library verifies them."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from itertools import pairwise
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest
import redis
from pydantic import SecretStr
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from api import webhooks
from api.onemin_view import ai_record
from api.webhooks import Deliverer
from shared import batch_intake, batch_store
from shared.batch_intake import Staged
from shared.batches import Batch, Line
from shared.clock import Clock
from shared.connections import run
from shared.egress import Egress
from shared.ids import BatchId, JobId, KeyId
from shared.job_store import JobStore
from shared.jobs import BatchEvent, Delivery, Failure, JobRecord, Webhook, WebhookEvent
from shared.keys import ApiKey
from shared.object_store import ObjectStore
from shared.settings import EgressSettings, Settings, StorageSettings, TeamsSettings
from shared.teams import TeamUser, ensure_user, get_user, webhook_secret, webhook_secret_of
from shared.transitions import cancel, erase, finish, redeliver
from shared.webhooks import message_id
from tests.samples import MODEL, record, start, variations_of
from tests.servers import free_port, wait_until
from tests.tls_servers import NAME, Names, Pictures, reply

SETTINGS = Settings(egress=EgressSettings(allowed_networks=(ip_network("127.0.0.0/8"),)))
STORE = JobStore(SETTINGS.jobs.lease_seconds)
OBJECTS = ObjectStore(
    StorageSettings(endpoint="http://127.0.0.1:9", access_key=SecretStr("key"), secret_key=SecretStr("secret"))
)
STARTED, FINISHED = WebhookEvent.STARTED, WebhookEvent.FINISHED


class Watch(Clock):
    """The time, as far on as a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


class Inline(Executor):
    """Runs a call where it is given."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        ended: Future[Any] = Future()
        ended.set_result(call(*args, **kwargs))
        return ended


class Message(NamedTuple):
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """A webhook that answers with these statuses in turn and with the last one ever after."""

    def __init__(self, pictures: Pictures, names: Names) -> None:
        self.statuses = ["200 OK"]
        self.hold: Event | None = None
        self._pictures = pictures
        self.url = pictures.serve(self._answer)
        names.answers *= 100

    def _answer(self, connection: socket.socket) -> None:
        if self.hold:
            self.hold.wait(20)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        reply(b"thanks", status=status)(connection)

    @property
    def messages(self) -> list[Message]:
        return [_message(request) for request in self._pictures.requests]


def _message(request: bytes) -> Message:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = (line.decode().partition(": ")[::2] for line in head.splitlines()[1:])
    return Message(dict(lines), body)


@pytest.fixture
def receiver(pictures: Pictures, names: Names) -> Receiver:
    return Receiver(pictures, names)


@pytest.fixture
def watch() -> Watch:
    return Watch()


def deliverer_of(records: redis.Redis, clock: Clock, egress: Egress | None = None) -> Deliverer:
    return Deliverer(SETTINGS, records, egress or Egress(SETTINGS.egress), OBJECTS, clock)


@pytest.fixture
def deliver(records: redis.Redis, watch: Watch, receiver: Receiver) -> Callable[[], None]:
    """Makes the calls that are due."""
    return partial(deliverer_of(records, watch).round, Inline())


@pytest.fixture
def ada(records: redis.Redis) -> TeamUser:
    return run(records, ensure_user("lab", "Ada"))


def started(records: redis.Redis, user: TeamUser, url: str, *events: WebhookEvent) -> JobRecord:
    """Start a job that tells of these events, or of its end."""
    webhook = Webhook(url=url, events=events or (FINISHED,))
    job = record().model_copy(update={"team_id": user.team_id, "user_id": user.user_id, "webhook": webhook})
    run(records, STORE.accept(job))
    return run(records, STORE.update(job.id, start))


def ended(records: redis.Redis, user: TeamUser, url: str, *events: WebhookEvent) -> JobRecord:
    job = started(records, user, url, *events)
    end = partial(finish, attempt=1, variations=variations_of(job), model=MODEL, timings={}, now=datetime.now(UTC))
    return run(records, STORE.update(job.id, end))


def told(records: redis.Redis, job_id: JobId, event: WebhookEvent = FINISHED) -> Delivery:
    job = run(records, STORE.get(job_id))
    assert job is not None
    return next(delivery for delivery in job.deliveries if delivery.event is event)


def outcomes(records: redis.Redis, job_id: JobId) -> list[str]:
    return [call.outcome for call in told(records, job_id).calls]


def test_a_webhook_gets_the_record_signed_as_the_standard_says(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    job = ended(records, ada, receiver.url)
    deliver()
    (message,) = receiver.messages
    sent = Verifier(run(records, webhook_secret(ada.team_id))).verify(message.body, message.headers)
    assert (sent["type"], message.headers["Content-Type"]) == ("job.finished", "application/json")
    assert datetime.fromisoformat(sent["timestamp"]) == told_at(job)
    shown = sent["data"]["aiRecord"]
    assert (shown["uuid"], shown["status"]) == (job.id, "SUCCESS")
    assert "X-Amz-Signature" in shown["temporaryUrl"]
    with pytest.raises(WebhookVerificationError):
        Verifier(run(records, webhook_secret(ensure(records, "shop").team_id))).verify(message.body, message.headers)


def told_at(job: JobRecord) -> datetime:
    assert job.finished_at is not None
    return job.finished_at.replace(microsecond=job.finished_at.microsecond // 1000 * 1000)


def ensure(records: redis.Redis, team: str) -> TeamUser:
    return run(records, ensure_user(team, "Bob"))


def test_each_event_that_a_job_asks_for_is_told_once(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    job = started(records, ada, receiver.url, STARTED, FINISHED)
    deliver()
    deliver()
    assert [json.loads(message.body)["type"] for message in receiver.messages] == ["job.started"]
    run(records, STORE.update(job.id, partial(cancel, now=datetime.now(UTC))))
    for _ in range(3):
        deliver()
    first, second = receiver.messages
    assert json.loads(second.body)["type"] == "job.finished"
    assert json.loads(second.body)["data"]["aiRecord"]["aiRecordDetail"]["resultObject"]["code"] == "CANCELED"
    assert first.id.startswith(f"msg_{job.id}_started_")
    assert second.id.startswith(f"msg_{job.id}_finished_")
    for event in WebhookEvent:
        (call,) = told(records, job.id, event).calls
        assert call.outcome == "HTTP 200"


def test_a_job_that_names_no_webhook_calls_none(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    job = record().model_copy(update={"team_id": ada.team_id, "user_id": ada.user_id})
    run(records, STORE.accept(job))
    run(records, STORE.update(job.id, partial(cancel, now=datetime.now(UTC))))
    deliver()
    assert not receiver.messages


def test_a_call_that_fails_is_made_again_under_its_id_and_freshly_signed(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, watch: Watch, deliver: Callable[[], None]
) -> None:
    receiver.statuses = ["500 Internal Server Error", "302 Found", "202 Accepted"]
    job = ended(records, ada, receiver.url)
    for seconds in (0, 4, 2, 28, 3, 3600):
        watch.ahead += timedelta(seconds=seconds)
        deliver()
    assert outcomes(records, job.id) == ["HTTP 500", "HTTP 302", "HTTP 202"]
    assert (told(records, job.id).delivered, told(records, job.id).next_at) == (True, None)
    assert {message.id for message in receiver.messages} == {message_id(job.id, told(records, job.id))}
    secret = run(records, webhook_secret(ada.team_id))
    for message in receiver.messages:
        Verifier(secret).verify(message.body, message.headers)
    assert len({message.headers["webhook-timestamp"] for message in receiver.messages}) == 3


def test_a_webhook_that_nobody_listens_at_is_tried_ever_more_rarely_for_a_day(
    records: redis.Redis, ada: TeamUser, watch: Watch, deliver: Callable[[], None]
) -> None:
    job = ended(records, ada, f"https://{NAME}:{free_port()}/")
    deliver()
    while next_at := told(records, job.id).next_at:
        watch.ahead = next_at - datetime.now(UTC) + timedelta(seconds=1)
        deliver()
    calls = told(records, job.id).calls
    assert {call.outcome for call in calls} == {"The URL's server does not answer over https."}
    waits = [later.at - earlier.at for earlier, later in pairwise(calls)]
    assert waits == sorted(waits)
    assert timedelta(hours=23) < sum(waits, timedelta()) < timedelta(hours=26)
    assert not told(records, job.id).delivered
    assert records.zcard("webhooks:due") == 0


def test_a_receiver_that_says_gone_is_left_alone(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    receiver.statuses = ["410 Gone"]
    job = ended(records, ada, receiver.url)
    deliver()
    assert outcomes(records, job.id) == ["HTTP 410"]
    assert (told(records, job.id).delivered, told(records, job.id).next_at) == (False, None)


def test_a_webhook_that_leads_inside_is_not_called_and_the_log_says_why(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, names: Names, deliver: Callable[[], None]
) -> None:
    names.answers[:] = [["10.0.0.1"]]
    job = ended(records, ada, receiver.url)
    deliver()
    assert outcomes(records, job.id) == ["the URL's port must be 443"]
    names.answers[:] = [["10.0.0.1"]]
    other = ended(records, ada, f"https://{NAME}/")
    deliver()
    assert outcomes(records, other.id) == ["the URL's host has no public address"]
    assert not receiver.messages
    report = run(records, STORE.report(other.id))
    assert report is not None
    shown = ai_record(report, run(records, get_user(ada.user_id)), OBJECTS)["aiRecord"]["additionalData"]["webhook"]
    assert (shown["url"], shown["events"]) == (f"https://{NAME}/", ["job.finished"])
    assert shown["deliveries"][0]["calls"][0]["outcome"] == "the URL's host has no public address"
    assert shown["deliveries"][0]["nextAt"].endswith("Z")


def test_an_event_is_told_again_when_an_operator_asks_for_it(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    job = ended(records, ada, receiver.url)
    deliver()
    run(records, STORE.update(job.id, partial(redeliver, event=FINISHED, now=datetime.now(UTC))))
    receiver.statuses = ["503 Service Unavailable"]
    deliver()
    first, second = receiver.messages
    assert first.id == second.id
    assert outcomes(records, job.id) == ["HTTP 200", "HTTP 503"]
    assert told(records, job.id).delivered
    assert told(records, job.id).next_at


def test_a_new_secret_signs_all_later_calls_and_the_old_one_none(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, watch: Watch, deliver: Callable[[], None]
) -> None:
    receiver.statuses = ["500 Internal Server Error", "200 OK"]
    old = run(records, webhook_secret(ada.team_id))
    ended(records, ada, receiver.url)
    deliver()
    new = run(records, webhook_secret_of("lab", rotate=True))
    watch.ahead = timedelta(seconds=6)
    deliver()
    for secret, other, message in zip((old, new), (new, old), receiver.messages, strict=True):
        Verifier(secret).verify(message.body, message.headers)
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            Verifier(other).verify(message.body, message.headers)


def test_a_deleted_job_tells_nobody(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    job = ended(records, ada, receiver.url)
    run(records, STORE.update(job.id, partial(erase, now=datetime.now(UTC))))
    deliver()
    assert not receiver.messages


class Killed(BaseException):
    """What ends a process."""


class LastCall(Egress):
    """Makes a call and dies."""

    def post(self, *args: Any) -> int:
        super().post(*args)
        raise Killed


def test_one_that_dies_between_call_and_note_leaves_the_call_to_the_next_under_the_same_id(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, watch: Watch, deliver: Callable[[], None]
) -> None:
    job = ended(records, ada, receiver.url)
    with pytest.raises(Killed):
        deliverer_of(records, watch, LastCall(SETTINGS.egress)).round(Inline())
    deliver()
    assert (len(receiver.messages), outcomes(records, job.id)) == (1, [])
    watch.ahead = timedelta(seconds=61)
    deliver()
    first, second = receiver.messages
    assert first.id == second.id
    assert outcomes(records, job.id) == ["HTTP 200"]


def test_a_call_that_began_before_a_retry_is_not_noted_for_the_retrys_end(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, watch: Watch
) -> None:
    job = ended(records, ada, receiver.url)

    class Overtaken(Egress):
        def post(self, *args: Any) -> int:
            run(records, STORE.update(job.id, ended_again))
            return super().post(*args)

    def ended_again(before: JobRecord) -> JobRecord:
        again = Delivery(event=FINISHED, at=watch.now(), next_at=watch.now())
        return before.model_copy(update={"deliveries": (again,)})

    deliverer_of(records, watch, Overtaken(SETTINGS.egress)).round(Inline())
    assert not told(records, job.id).calls
    deliverer_of(records, watch).round(Inline())
    first, second = (message.id for message in receiver.messages)
    assert first != second == message_id(job.id, told(records, job.id))


def test_another_call_that_was_asked_for_during_a_call_is_made(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, watch: Watch, deliver: Callable[[], None]
) -> None:
    receiver.statuses = ["410 Gone", "200 OK"]
    job = ended(records, ada, receiver.url)

    class Overtaken(Egress):
        def post(self, *args: Any) -> int:
            run(records, STORE.update(job.id, partial(redeliver, event=FINISHED, now=datetime.now(UTC))))
            return super().post(*args)

    deliverer_of(records, watch, Overtaken(SETTINGS.egress)).round(Inline())
    assert told(records, job.id).next_at
    deliver()
    assert outcomes(records, job.id) == ["HTTP 410", "HTTP 200"]
    assert (told(records, job.id).delivered, told(records, job.id).next_at) == (True, None)


@contextmanager
def running(*deliverers: Deliverer) -> Iterator[None]:
    stop = Event()
    threads = [Thread(target=deliverer.run, args=(stop,)) for deliverer in deliverers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_two_replicas_make_each_call_once(records: redis.Redis, ada: TeamUser, receiver: Receiver) -> None:
    jobs = [ended(records, ada, receiver.url) for _ in range(8)]
    with running(deliverer_of(records, Clock()), deliverer_of(records, Clock())):
        wait_until(lambda: all(told(records, job.id).delivered for job in jobs))
    assert sorted(message.id for message in receiver.messages) == sorted(
        message_id(job.id, told(records, job.id)) for job in jobs
    )


def test_the_calls_of_one_team_follow_each_other_without_a_pause(
    records: redis.Redis, ada: TeamUser, receiver: Receiver
) -> None:
    jobs = [ended(records, ada, receiver.url) for _ in range(12)]
    began = time.monotonic()
    with running(deliverer_of(records, Clock())):
        wait_until(lambda: all(told(records, job.id).delivered for job in jobs))
    assert time.monotonic() - began < 6 * webhooks.PAUSE


@pytest.mark.parametrize("looked_at", [1000, 5])
def test_a_team_whose_receivers_are_slow_holds_up_no_other(
    looked_at: int,
    records: redis.Redis,
    ada: TeamUser,
    pictures: Pictures,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "LOOKED_AT", looked_at)
    slow, quick = Receiver(pictures, names), Receiver(pictures, names)
    slow.hold = Event()
    waiting = [ended(records, ada, slow.url) for _ in range(12)]
    job = ended(records, ensure(records, "shop"), quick.url)
    began = time.monotonic()
    with running(deliverer_of(records, Clock())):
        wait_until(lambda: told(records, job.id).delivered, 5)
        assert time.monotonic() - began < 5
        assert not any(told(records, other.id).calls for other in waiting)
        slow.hold.set()


def test_a_server_that_does_not_answer_is_waited_for(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(records, ada, receiver.url)
    tries = iter([redis.ConnectionError("away"), ValueError("a fault")])
    original = records.execute_command

    def execute(*command: Any) -> Any:
        if error := next(tries, None):
            raise error
        return original(*command)  # type: ignore[no-untyped-call]

    failing = redis.Redis(connection_pool=records.connection_pool)
    monkeypatch.setattr(failing, "execute_command", execute)
    with running(deliverer_of(failing, Clock())):
        wait_until(lambda: told(records, job.id).delivered)


def ended_batch(records: redis.Redis, user: TeamUser, url: str) -> Batch:
    """A batch whose one item failed."""
    now = datetime.now(UTC)
    caller = ApiKey(
        id=KeyId("k"),
        team_id=user.team_id,
        team_name="lab",
        user_id=user.user_id,
        user_name="Ada",
        digest="",
        created_at=now,
    )
    batch = Batch(
        id=BatchId("one"),
        team_id=user.team_id,
        caller=caller,
        request_id="r",
        metadata="{}",
        low_priority=True,
        webhook=Webhook(url=url, events=(BatchEvent.FINISHED,)),
        work=1,
        created_at=now,
        updated_at=now,
    )
    items = {1: Staged(Line(), Failure(code="C", name="N", message="m"))}
    run(records, batch_intake.stage(batch.id, items))
    run(records, batch_intake.accept(batch, 1, 0, limits=TeamsSettings(), once=None))
    assert run(records, batch_store.finish(batch.id, 0, now))
    return batch


def test_a_batchs_end_is_told_with_its_counts_and_noted(
    records: redis.Redis, ada: TeamUser, receiver: Receiver, deliver: Callable[[], None]
) -> None:
    batch = ended_batch(records, ada, receiver.url)
    receiver.statuses = ["500 Internal Server Error", "200 OK"]
    deliver()
    (message,) = receiver.messages
    told = json.loads(message.body)
    assert (told["type"], told["data"]["batch"]["uuid"]) == ("batch.finished", batch.id)
    assert told["data"]["batch"]["counts"]["failed"] == 1
    Verifier(run(records, webhook_secret(ada.team_id))).verify(message.body, message.headers)
    noted = run(records, batch_store.get(batch.id))
    assert noted
    assert [call.outcome for call in noted.deliveries[0].calls] == ["HTTP 500"]
