"""What the real processes tell, and whether alerts and dashboard ask for that."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from shared.jobs import JobStatus
from shared.keys import create_key
from shared.programs import run
from tests import servers
from tests.ops.debian import program
from tests.ops.files import NAME, OPS, alerts, queries
from tests.samples import encoded, picture
from tests.servers import free_port, wait_until
from tests.stack import feature, upload
from tests.yard import LEASE, Yard

pytestmark = pytest.mark.slow

PROCESSES = ("api", "dispatcher", "worker")
ABSENT = re.compile(r"absent\((\w+)")


@dataclass
class Seen:
    """Processes that have run jobs, and where they tell of it."""

    folder: Path
    ports: dict[str, int]

    def scrape(self, process: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[process]}/metrics").raise_for_status().text


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """API, dispatcher and worker, with one job of each kind of end behind them."""
    folder, ports = tmp_path_factory.mktemp("seen"), {name: free_port() for name in PROCESSES}
    metrics = {f"REDUXQ_{name.upper()}__METRICS_PORT": str(port) for name, port in ports.items()}
    with ExitStack() as living:
        yard = Yard(folder, living, LEASE | metrics | {"REDUXQ_API__WAIT_SECONDS": "30"})
        yard.worker("one", pace=0.02)
        url = living.enter_context(servers.api(folder, yard.environment))
        key = run(yard.records, create_key("lab", "Ada"))
        with httpx.Client(base_url=url, headers={"API-KEY": key}, timeout=40) as client:
            assert client.get("/api/results", headers={"API-KEY": "none"}).status_code == 401
            source = upload(client, encoded(picture(), "PNG"))["key"]
            for seed in (1, 2):
                assert feature(client, source, wait=True, seed=seed)["status"] == "SUCCESS"
        late = yard.accept(source="images/not-there.png")
        assert yard.wait_for(late, JobStatus.FAILED).failure
        yield Seen(folder, ports)


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
    assert tellers == {"ReduxqNoApi": {"api"}, "ReduxqNoDispatcher": {"dispatcher"}}


def test_what_happened_is_what_is_told(seen: Seen) -> None:
    def value(process: str, sample: str) -> float:
        return next(
            float(line.rpartition(" ")[2])
            for line in seen.scrape(process).splitlines()
            if line.startswith(f"{sample} ")
        )

    assert value("api", "reduxq_jobs_accepted_total") == 2
    assert value("api", 'reduxq_api_answers_total{status="401"}') == 1
    assert value("api", 'reduxq_storage_seconds_count{operation="put"}') == 1
    wait_until(lambda: value("dispatcher", 'reduxq_jobs_finished_total{code="",status="succeeded"}') == 2)
    wait_until(lambda: value("dispatcher", 'reduxq_jobs_finished_total{code="SOURCE_UNUSABLE",status="failed"}') == 1)
    wait_until(lambda: value("dispatcher", "reduxq_workers") == value("dispatcher", "reduxq_dispatcher_leads") == 1)
    assert value("worker", 'reduxq_attempts_total{end="succeeded"}') == 2
    assert value("worker", "reduxq_engine_busy_seconds_total") > 2 * 2 * 0.02
    assert value("worker", 'reduxq_engine_call_seconds_count{rows="1",size="576x448"}') == 4
    scale = httpx.get(f"http://127.0.0.1:{seen.ports['dispatcher']}/scale")
    assert scale.json() == {"desiredWorkers": 0}


@pytest.fixture(scope="module")
def prometheus(seen: Seen) -> Iterator[httpx.Client]:
    """A Prometheus with our rules that looks at these processes every second."""
    settings = yaml.safe_load((OPS / "prometheus.yml").read_text())
    targets = [f"127.0.0.1:{port}" for port in seen.ports.values()]
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(OPS / "alerts.yml")]
    settings["scrape_configs"] = [{"job_name": "reduxq", "static_configs": [{"targets": targets}]}]
    file, port = seen.folder / "prometheus.yml", free_port()
    file.write_text(yaml.safe_dump(settings))
    arguments = {
        "config.file": file,
        "storage.tsdb.path": seen.folder / "tsdb",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [program("prometheus"), *(f"--{name}={value}" for name, value in arguments.items())]
    with (
        servers.process(command, seen.folder / "prometheus.log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client,
    ):
        wait_until(lambda: servers.listens(port))
        wait_until(lambda: len(asked(client, "count_over_time(up[1m]) > 3")) == len(PROCESSES))
        yield client


def asked(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/query", params={"query": query})
    found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.is_success else []
    return found


@pytest.mark.parametrize(("panel", "query"), list(queries()))
def test_every_query_of_the_dashboard_finds_something(panel: str, query: str, prometheus: httpx.Client) -> None:
    assert asked(prometheus, query), panel


def test_every_rule_is_evaluated_and_none_fires_while_all_is_well(prometheus: httpx.Client) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()))
    assert {rule["name"]: rule["state"] for rule in rules()} == {rule["alert"]: "inactive" for rule in alerts()}
