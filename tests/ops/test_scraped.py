"""What the real processes tell, and whether alerts and dashboard ask for that."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, takewhile
from math import isfinite
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from shared.connections import run
from shared.jobs import JobStatus
from shared.keys import create_key
from tests import servers
from tests.ops.debian import program
from tests.ops.files import NAME, OPS, alerts, queries
from tests.samples import encoded, picture
from tests.servers import free_port, wait_until
from tests.stack import feature, result, upload
from tests.yard import LEASE, Yard

pytestmark = pytest.mark.slow

SECOND = "dispatcher 2"
PROCESSES = ("api", "dispatcher", SECOND, "worker")
#: What is not told while all is well.
FAULTS = {
    f"reduxq_{name}_total" for name in ("leases_expired", "messages_republished", "stale_finishes", "storage_errors")
}
ABSENT = re.compile(r"absent\((\w+)")


@dataclass
class Seen:
    """Processes that have run jobs, and where they tell of it."""

    yard: Yard
    client: httpx.Client
    source: str
    ports: dict[str, int]

    def scrape(self, process: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[process]}/metrics").raise_for_status().text

    def strain(self, stop: Event) -> None:
        """Keep jobs waiting and running, one of each kind of end, until told to stop."""
        for seed in takewhile(lambda _: not stop.is_set(), count(100)):  # the worker hangs for one of the first
            self.client.get("/api/results", headers={"API-KEY": "none"})
            self.yard.accept(source="images/not-there.png")
            jobs = [feature(self.client, self.source, seed=seed, num_outputs=2)["uuid"] for _ in range(4)]
            while result(self.client, jobs[-1])["status"] == "PROCESSING" and not stop.is_set():
                time.sleep(0.1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """API, dispatchers and worker, with one job of each kind of end behind them."""
    folder, ports = tmp_path_factory.mktemp("seen"), {name: free_port() for name in PROCESSES}
    metrics = {f"REDUXQ_{name.upper()}__METRICS_PORT": str(port) for name, port in ports.items() if name != SECOND}
    with ExitStack() as living:
        yard = Yard(folder, living, LEASE | metrics | {"REDUXQ_API__WAIT_SECONDS": "30"})
        yard.worker("one", pace=0.02)
        more = {"REDUXQ_DISPATCHER__METRICS_PORT": str(ports[SECOND])}
        command = [sys.executable, "-m", "api.dispatcher"]
        living.enter_context(servers.process(command, folder / "second.log", yard.environment | more))
        url = living.enter_context(servers.api(folder, yard.environment))
        key = run(yard.records, create_key("lab", "Ada"))
        client = living.enter_context(httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=40))
        assert client.get("/api/results", headers={"API-KEY": "none"}).status_code == 401
        source = upload(client, encoded(picture(), "PNG"))["key"]
        for seed in (1, 2):
            assert feature(client, source, wait=True, seed=seed)["status"] == "SUCCESS"
        late = yard.accept(source="images/not-there.png")
        assert yard.wait_for(late, JobStatus.FAILED).failure
        wait_until(lambda: servers.listens(ports[SECOND]))
        yield Seen(yard, client, source, ports)


def names_in(scraped: str) -> set[str]:
    return {line.partition(" ")[0].partition("{")[0] for line in scraped.splitlines() if not line.startswith("#")}


def test_alerts_and_dashboard_ask_only_for_what_is_told(seen: Seen) -> None:
    told = set[str]().union(*(names_in(seen.scrape(name)) for name in PROCESSES))
    asked = [*queries(), *((rule["alert"], rule["expr"]) for rule in alerts())]
    for who, query in asked:
        assert set(NAME.findall(query)) <= told, who
    ours = {name for name in told if name.startswith("reduxq_")}
    assert not [name for name in ours if name.endswith("_created")]


def test_what_an_alert_misses_when_a_process_is_away_that_process_alone_tells(seen: Seen) -> None:
    missed = {rule["alert"]: ABSENT.findall(rule["expr"]) for rule in alerts()}
    tellers = {
        alert: {process for process in PROCESSES for name in missing if name in names_in(seen.scrape(process))}
        for alert, missing in missed.items()
        if missing
    }
    assert tellers == {"ReduxqNoApi": {"api"}, "ReduxqNoDispatcher": {"dispatcher", SECOND}}


def test_what_happened_is_what_is_told(seen: Seen) -> None:
    def value(process: str, sample: str) -> float:
        lines = [line for line in seen.scrape(process).splitlines() if line.startswith(f"{sample} ")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def finished(labels: str) -> float:  # the lead may go over
        return sum(value(each, f"reduxq_jobs_finished_total{{{labels}}}") for each in ("dispatcher", SECOND))

    assert value("api", "reduxq_jobs_accepted_total") == 2
    assert value("api", 'reduxq_api_answers_total{status="401"}') == 1
    assert value("api", 'reduxq_storage_seconds_count{operation="put"}') == 1
    wait_until(lambda: finished('code="",status="succeeded"') == 2)
    wait_until(lambda: finished('code="SOURCE_UNUSABLE",status="failed"') == 1)
    wait_until(lambda: value("dispatcher", "reduxq_workers") == value("dispatcher", "reduxq_dispatcher_leads") == 1)
    assert value("worker", 'reduxq_attempts_total{end="succeeded"}') == 2
    assert value("worker", "reduxq_engine_busy_seconds_total") > 2 * 2 * 0.02
    assert value("worker", 'reduxq_engine_call_seconds_count{rows="1",size="576x448"}') == 4
    scale = f"http://127.0.0.1:{seen.ports['dispatcher']}/scale"
    wait_until(lambda: httpx.get(scale).json() == {"desiredWorkers": 0})  # it is told once a second


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_told_is_named_and_explained_as_prometheus_asks(process: str, seen: Seen) -> None:
    promtool = [program("promtool"), "check", "metrics"]
    done = subprocess.run(promtool, input=seen.scrape(process), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def prometheus(seen: Seen) -> Iterator[httpx.Client]:
    """A Prometheus with our rules that looks at these processes every second, while jobs run."""
    settings = yaml.safe_load((OPS / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(OPS / "alerts.yml")]
    (scraped,) = settings["scrape_configs"]
    del scraped["dns_sd_configs"]  # instead of which each name has its address here
    scraped["static_configs"] = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"__meta_dns_name": name.partition(" ")[0]}}
        for name, port in seen.ports.items()
    ]
    folder, port = seen.yard.folder, free_port()
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    arguments = {
        "config.file": file,
        "storage.tsdb.path": folder / "tsdb",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [program("prometheus"), *(f"--{name}={value}" for name, value in arguments.items())]
    stop = Event()
    with (
        servers.process(command, folder / "prometheus.log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client,
        ThreadPoolExecutor(1) as pool,
    ):
        wait_until(lambda: servers.listens(port))
        wait_until(lambda: len(asked(client, "count_over_time(up[1m]) > 3")) == len(PROCESSES))
        straining = pool.submit(seen.strain, stop)
        try:
            yield client
        finally:
            stop.set()
            straining.result()


def asked(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/query", params={"query": query})
    found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.is_success else []
    return found


@pytest.mark.parametrize(("panel", "query"), list(queries()))
def test_every_query_of_the_dashboard_gives_numbers_that_tell_of_the_work(
    panel: str, query: str, prometheus: httpx.Client
) -> None:
    faults = bool(FAULTS & set(NAME.findall(query)))

    def meaningful() -> bool:
        values = [float(found["value"][1]) for found in asked(prometheus, query)]
        return bool(values) and all(map(isfinite, values)) and any(values) != faults

    until = time.monotonic() + 40
    while not meaningful():
        assert time.monotonic() < until, f"{panel}: {asked(prometheus, query)}"
        time.sleep(0.5)


def test_two_processes_of_one_name_are_two_instances(prometheus: httpx.Client) -> None:
    found = asked(prometheus, "count by (instance) (reduxq_dispatcher_leads)")
    assert sorted(each["metric"]["instance"].partition(" ")[0] for each in found) == ["dispatcher"] * 2
    assert [each["value"][1] for each in found] == ["1", "1"]


def test_every_rule_is_evaluated_and_none_fires_while_all_is_well(prometheus: httpx.Client) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()))
    assert {rule["name"] for rule in rules()} == {rule["alert"] for rule in alerts()}
    # This one's rate is over ten minutes, of which the worker was there for a few seconds.
    assert {rule["name"] for rule in rules() if rule["state"] != "inactive"} <= {"ReduxqEngineIdle"}
    assert "firing" not in {rule["state"] for rule in rules()}
