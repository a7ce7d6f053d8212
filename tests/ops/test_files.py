"""The files in ops/ themselves; who starts them, and what the processes really tell, is tested elsewhere."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.composed import composed
from tests.ops.debian import program
from tests.ops.files import OPS, alerts, dashboard

#: What makes each rule fire: series with their values, minute by minute, and after how many.
FIRING: dict[str, tuple[dict[str, str], str]] = {
    "ReduxqRecordsNotDurable": ({'reduxq_records_durable{instance="a"}': "0x9"}, "3m"),
    "ReduxqRecordsFull": ({"reduxq_records_memory_ratio": "0.81x20"}, "8m"),
    "ReduxqNoDispatcher": ({"reduxq_dispatcher_leads": "0x9"}, "4m"),
    "ReduxqNoApi": ({'reduxq_jobs_accepted_total{instance="dispatcher"}': "0x9"}, "4m"),
    "ReduxqApiErrors": (
        {'reduxq_api_answers_total{status="200"}': "0+90x20", 'reduxq_api_answers_total{status="503"}': "0+10x20"},
        "15m",
    ),
    "ReduxqNoWorker": ({"reduxq_workers": "0x20", 'reduxq_jobs{status="queued"}': "1x20"}, "18m"),
    "ReduxqJobWaitsTooLong": ({"reduxq_oldest_queued_seconds": "601x20"}, "8m"),
    "ReduxqEngineIdle": (
        {
            "reduxq_workers": "2x40",
            'reduxq_jobs{status="queued"}': "1x40",
            'reduxq_engine_busy_seconds_total{instance="a"}': "0+12x40",
            'reduxq_engine_busy_seconds_total{instance="b"}': "0+12x40",
        },
        "25m",
    ),
    "ReduxqLeasesExpire": ({"reduxq_leases_expired_total": "0+1x20"}, "15m"),
    "ReduxqJobsFail": (
        {
            'reduxq_jobs_finished_total{status="succeeded",code=""}': "0+97x40",
            'reduxq_jobs_finished_total{status="failed",code="TOO_MANY_ATTEMPTS"}': "0+3x40",
        },
        "35m",
    ),
    "ReduxqStorageErrors": (
        {
            'reduxq_storage_errors_total{operation="put"}': "0+5x20",
            'reduxq_storage_seconds_count{operation="put"}': "0+100x20",
        },
        "15m",
    ),
    "ReduxqJobsSetAside": ({'reduxq_jobs{status="set_aside"}': "1x20"}, "8m"),
}
#: A service with work that does well.
WELL = {
    "reduxq_records_durable": "1x40",
    "reduxq_records_memory_ratio": "0.79x40",
    "reduxq_dispatcher_leads": "1x40",
    "reduxq_jobs_accepted_total": "0+60x40",
    'reduxq_api_answers_total{status="200"}': "0+100x40",
    'reduxq_api_answers_total{status="503"}': "0+1x40",
    "reduxq_workers": "2x40",
    'reduxq_jobs{status="queued"}': "3x40",
    'reduxq_jobs{status="set_aside"}': "0x40",
    "reduxq_oldest_queued_seconds": "30x40",
    "reduxq_engine_busy_seconds_total": "0+100x40",
    "reduxq_leases_expired_total": "1x40",
    'reduxq_jobs_finished_total{status="succeeded",code=""}': "0+60x40",
    'reduxq_jobs_finished_total{status="failed",code="TOO_MANY_ATTEMPTS"}': "0x40",
    'reduxq_storage_errors_total{operation="put"}': "0+1x40",
    'reduxq_storage_seconds_count{operation="put"}': "0+100x40",
}


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def unit_test(rule: dict[str, Any], series: dict[str, str], at: str, *, fires: bool) -> dict[str, Any]:
    """Return a test as promtool takes it."""
    told = {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
    case = {"eval_time": at, "alertname": rule["alert"], "exp_alerts": [told] if fires else []}
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": given, "alert_rule_test": [case]}


@pytest.mark.slow
def test_every_alert_fires_when_it_should_and_none_when_all_is_well(tmp_path: Path) -> None:
    rules = {rule["alert"]: rule for rule in alerts()}
    assert rules.keys() == FIRING.keys()
    tests = [unit_test(rules[name], series, at, fires=True) for name, (series, at) in FIRING.items()]
    tests += [unit_test(rule, WELL, "38m", fires=False) for rule in rules.values()]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(OPS / "alerts.yml")], "tests": tests}))
    promtool("test", "rules", file)


@pytest.mark.slow
def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", OPS / "prometheus.yml")


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "runbook"}


def test_every_alert_has_its_paragraph_in_the_operations_page_and_each_of_these_its_alert() -> None:
    page = (OPS.parent / "docs" / "operations.md").read_text()
    told = dict(re.findall(r"^\*\*(Reduxq\w+)\*\*: (.+?)\n\n", page, re.MULTILINE | re.DOTALL))
    summaries = {rule["alert"]: rule["annotations"]["summary"] for rule in alerts()}
    assert told.keys() == summaries.keys()
    for alert, paragraph in told.items():
        assert " ".join(paragraph.split()).startswith(f"{summaries[alert]}. "), alert


def test_prometheus_looks_for_every_service_that_tells_metrics() -> None:
    services = composed(dict.fromkeys(("REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_PUBLIC_URL"), "x") | {
        "FLOWER_PASSWORD": "x", "GRAFANA_PASSWORD": "x"
    })["services"]  # fmt: skip
    telling = {
        (name, int(port))
        for name, service in services.items()
        for variable, port in service.get("environment", {}).items()
        if variable.endswith("__METRICS_PORT")
    }
    (scraped,) = yaml.safe_load((OPS / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert {(name, found["port"]) for name in found["names"]} == telling


def test_grafana_finds_dashboard_and_data_where_compose_puts_them() -> None:
    mounts = (OPS.parent / "docker-compose.yml").read_text()
    provisioning = OPS / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "reduxq.yml").read_text())["providers"]
    assert f"./ops/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./ops/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts
    panels = dashboard()["panels"]
    assert {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len(places)
