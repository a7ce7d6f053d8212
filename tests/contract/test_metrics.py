"""What happens is counted where it happens, on real servers."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event

import httpx
import pytest
import redis
from prometheus_client.registry import CollectorRegistry
from pydantic import SecretStr

from api.dispatch_metrics import Standing
from api.dispatcher import Dispatcher
from shared import backlog, presence
from shared.backlog import Backlog
from shared.clock import Clock
from shared.completions import BLOCK, follow_endings
from shared.connections import connect, run
from shared.errors import Misconfigured, NotFound, SourceUnusable
from shared.ids import AssetKey, JobId
from shared.job_store import JobStore
from shared.jobs import JobRecord, JobStatus
from shared.metrics import serve
from shared.object_store import ObjectStore
from shared.presence import WorkerLife
from shared.queue import QUEUE, Broker
from shared.settings import DispatcherSettings, JobsSettings, RecordsSettings, Settings, StorageSettings
from shared.transitions import cancel, fail, finish
from tests import queues
from tests.counted import Counts
from tests.desk import Desk
from tests.samples import MODEL, NOW, PRICE, record, start, variations_of
from tests.servers import free_port, wait_until

LEASE = timedelta(seconds=0.5)
STORE = JobStore(LEASE)


@pytest.fixture
def settings(valkey: str, tmp_path: Path) -> Settings:
    rules = DispatcherSettings(republish_seconds=timedelta(seconds=0.1), heartbeat_file=str(tmp_path / "beat"))
    url = SecretStr(valkey)
    return Settings(
        jobs=JobsSettings.model_construct(lease_seconds=LEASE), dispatcher=rules, records=RecordsSettings(url=url)
    )


@pytest.fixture
def dispatcher(valkey: str, records: redis.Redis, settings: Settings) -> Dispatcher:
    run(records, presence.announce_worker("one", queues.LIFE, timedelta(minutes=1)))
    return Dispatcher(settings, records, Broker(f"{valkey}/1"), Clock())


def accept(records: redis.Redis) -> JobId:
    return run(records, STORE.accept(record(created_at=datetime.now(UTC))))


def finished(job: JobRecord) -> JobRecord:
    now = datetime.now(UTC)
    return finish(job, attempt=1, variations=variations_of(job), model=MODEL, timings={}, now=now)


def test_a_lease_that_expired_and_a_message_that_was_lost_are_counted(
    dispatcher: Dispatcher, records: redis.Redis, valkey: str
) -> None:
    counts = Counts("reduxq_leases_expired_total", "reduxq_messages_republished_total")
    silent, lost = accept(records), accept(records)
    run(records, STORE.update(silent, start))
    dispatcher.round()
    with connect(f"{valkey}/1") as broker:
        broker.delete(QUEUE)
    time.sleep(0.6)
    dispatcher.round()
    assert counts() == (1, 1)
    assert lost in run(records, queues.published_jobs())
    dispatcher.round()
    assert counts() == (1, 1)


@pytest.fixture
def followed(dispatcher: Dispatcher, valkey: str) -> Iterator[Dispatcher]:
    """A dispatcher that hears of the jobs that end."""
    stop = Event()
    with connect(valkey, timeout=2 * BLOCK) as patient, ThreadPoolExecutor() as pool:
        following = pool.submit(follow_endings, patient, dispatcher.count_ended, Clock(), stop, 0.1)
        time.sleep(0.1)
        yield dispatcher
        stop.set()
        patient.xadd("jobs:completions", {"id": "none"})
        following.result(5)


def test_a_job_that_ended_is_counted_by_the_leader_with_its_times_its_price_and_why(
    followed: Dispatcher, records: redis.Redis
) -> None:
    well = Counts("reduxq_jobs_finished_total", status="succeeded", code="")
    badly = Counts("reduxq_jobs_finished_total", status="failed", code="SOURCE_UNUSABLE")
    canceled = Counts("reduxq_jobs_finished_total", status="canceled", code="CANCELED")
    others = Counts("reduxq_credits_charged_total", "reduxq_job_queue_seconds_count", "reduxq_job_run_seconds_count")
    followed.round()
    done, failed, withdrawn = (accept(records) for _ in range(3))
    for job_id in (done, failed):
        run(records, STORE.update(job_id, start))
    run(records, STORE.update(done, finished))
    run(records, STORE.update(failed, partial(fail, attempt=1, error=SourceUnusable(), now=datetime.now(UTC))))
    run(records, STORE.update(withdrawn, partial(cancel, now=datetime.now(UTC))))
    wait_until(lambda: (well(), badly(), canceled()) == ((1,), (1,), (1,)))
    wait_until(lambda: others() == (PRICE, 3, 2))


def test_a_dispatcher_that_follows_counts_nothing(followed: Dispatcher, records: redis.Redis) -> None:
    run(records, presence.lead("another", timedelta(minutes=1)))
    counts = Counts("reduxq_jobs_finished_total", status="canceled", code="CANCELED")
    run(records, STORE.update(accept(records), partial(cancel, now=datetime.now(UTC))))
    time.sleep(0.3)
    assert counts() == (0,)


def told(records: redis.Redis, settings: Settings) -> dict[str, float]:
    """Return the gauges that a dispatcher tells at a scrape."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Standing(records, settings))
    return {
        sample.name.removeprefix("reduxq_") + "".join(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_the_state_is_told_as_it_is_at_the_scrape(
    dispatcher: Dispatcher, records: redis.Redis, settings: Settings
) -> None:
    assert told(records, settings) == {
        "records_durable": 1,
        "jobsqueued": 0,
        "jobsrunning": 0,
        "jobsset_aside": 0,
        "oldest_queued_seconds": 0,
        "dispatcher_leads": 0,
        "workers": 1,
        "records_memory_ratio": 0,
    }
    records.config_set("maxmemory", "1gb")
    assert 0 < told(records, settings)["records_memory_ratio"] < 0.1
    hour = timedelta(hours=1)
    run(records, STORE.accept(record(created_at=datetime.now(UTC) - hour)))
    run(records, STORE.update(accept(records), start))
    dispatcher.round()
    state = told(records, settings)
    assert (state["jobsqueued"], state["jobsrunning"], state["dispatcher_leads"]) == (1, 1, 1)
    assert 3600 <= state["oldest_queued_seconds"] < 3610
    assert state["workers_desired"] == 1
    records.config_set("appendfsync", "everysec")
    assert told(records, settings) == {"records_durable": 0}
    records.shutdown(nosave=True)
    assert told(records, settings) == {"records_durable": 0}


def test_scale_is_answered_from_the_records_and_with_503_when_nobody_has_told_them(
    records: redis.Redis, settings: Settings
) -> None:
    port = free_port()
    serve(port, scale=Standing(records, settings).scale)
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/scale").status_code == 503
    work = Backlog(waiting={"normal:lab": (9, 9000)}, speed=50.0, workers=1, running=1)
    run(records, backlog.put(work))
    answer = httpx.get(f"{url}/scale")
    assert (answer.status_code, answer.json()) == (200, {"desiredWorkers": 3})  # 180 s of work in 60
    run(records, backlog.put(work.model_copy(update={"waiting": {"normal:lab": (900, 900_000)}})))
    assert httpx.get(f"{url}/scale").json() == {"desiredWorkers": 8}
    assert "reduxq_jobs_finished_total" in httpx.get(f"{url}/metrics").text
    with pytest.raises(Misconfigured, match=f"port {port} cannot be had"):
        serve(port)


def test_a_worker_that_has_run_no_job_yet_counts_as_fast_as_the_others(
    dispatcher: Dispatcher, records: redis.Redis
) -> None:
    for name, speed in (("old", 400), ("older", 200), ("new", 0)):
        run(records, presence.announce_worker(name, WorkerLife(2, speed), timedelta(minutes=1)))
    run(records, presence.retire_worker("one"))
    dispatcher.round()
    seen = run(records, backlog.get())
    assert seen is not None
    assert (seen.workers, seen.speed) == (3, 900)


def test_a_backlog_that_finds_no_worker_wakes_as_many_as_are_needed_at_the_last_ones_speed(
    dispatcher: Dispatcher, records: redis.Redis, settings: Settings
) -> None:
    run(records, presence.announce_worker("one", WorkerLife(2, 1), timedelta(minutes=1)))
    dispatcher.round()
    run(records, presence.retire_worker("one"))
    records.delete(backlog.PLACE)  # it lapses within half a minute
    assert Standing(records, settings).scale() is None
    job = record(created_at=datetime.now(UTC))
    run(records, STORE.accept(job))
    time.sleep(1.1)  # the dispatcher tells what waits each second
    dispatcher.round()
    seconds = job.parameters.work  # at 1 TFLOP/s
    assert Standing(records, settings).scale() == {"desiredWorkers": min(8, -(-seconds // 60))}
    assert seconds > 60


def test_a_dispatcher_shows_its_life_as_leader_as_follower_and_with_the_records_server_away(
    settings: Settings, valkey: str
) -> None:
    beat, stop = Path(settings.dispatcher.heartbeat_file), Event()

    def beats_on() -> bool:
        os.utime(beat, (0, 0))
        wait_until(lambda: beat.stat().st_mtime > 0, 5)
        return True

    with connect(valkey) as records, ThreadPoolExecutor() as pool:
        running = pool.submit(Dispatcher(settings, records, Broker(f"{valkey}/1"), Clock()).run, stop)
        wait_until(beat.exists)
        assert beats_on()
        run(records, presence.lead("another", timedelta(minutes=1)))
        records.set(presence.LEADER, "another")
        assert beats_on()
        records.shutdown(nosave=True)
        assert beats_on()
        stop.set()
        running.result(10)


def test_attempts_are_counted_by_their_end(desk: Desk) -> None:
    ends = {end: Counts("reduxq_attempts_total", end=end) for end in ("succeeded", "failed", "queued", "lost")}
    stale = Counts("reduxq_stale_finishes_total")
    assert desk.run(num_inference_steps=1).status is JobStatus.SUCCEEDED
    assert desk.run(source=AssetKey("images/none.png")).status is JobStatus.FAILED
    assert {end: count() for end, count in ends.items()} == {
        "succeeded": (1,),
        "failed": (1,),
        "queued": (0,),
        "lost": (0,),
    }
    job_id = desk.accept(num_inference_steps=1)

    def ends_meanwhile(pictures: list[object]) -> list[float]:
        desk.update(job_id, partial(cancel, now=NOW))
        return [0.0] * len(pictures)

    unaware = desk.runner_with(score=ends_meanwhile)
    assert unaware.run(job_id) is None
    assert (ends["lost"](), stale()) == ((1,), (1,))


def test_calls_of_the_storage_are_measured_and_only_its_faults_are_errors(
    objects: ObjectStore, storage: StorageSettings
) -> None:
    calls = Counts("reduxq_storage_seconds_count", operation="get")
    errors = Counts("reduxq_storage_errors_total", operation="get")
    with pytest.raises(NotFound):
        objects.get(AssetKey("images/none"))
    assert (calls(), errors()) == ((1,), (0,))
    wrong = ObjectStore(storage.model_copy(update={"secret_key": SecretStr("wrong-secret")}))
    with pytest.raises(Misconfigured):
        wrong.get(AssetKey("images/none"))
    assert (calls(), errors()) == ((2,), (1,))
