import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.k8s.__main__ import ALERTS, RULES, prometheus_rule
from tests.k8s.rendering import OVERLAYS, named, render
from tests.servers import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "operations.md"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT / "k8s", tmp_path / "k8s")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_alike_each_time_and_anywhere(overlay: str, copied: Path) -> None:
    assert render(ROOT / "k8s" / "overlays" / overlay) == render(copied / "overlays" / overlay)


def test_scaling_and_monitoring_go_together_as_the_readme_says(copied: Path) -> None:
    example = (ROOT / "k8s" / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    own = copied / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(example)
    objects = list(yaml.safe_load_all(render(own)))
    assert {"ScaledObject", "ServiceMonitor", "PrometheusRule"} <= {each["kind"] for each in objects}
    (settings,) = (each["data"] for name, each in named(objects, "ConfigMap").items() if name.startswith("settings-"))
    assert settings["REDUXQ_STORAGE__BUCKET"] == "pictures"
    images = {
        pod["spec"]["template"]["spec"]["containers"][0]["image"] for pod in named(objects, "Deployment").values()
    }
    assert images == {"registry.example.com/reduxq-api:0.1.0", "registry.example.com/reduxq-worker:0.1.0"}


def test_an_upgrade_changes_nothing_that_kubernetes_keeps_but_jobs_that_the_page_deletes_first(copied: Path) -> None:
    """A changed field of these is refused, and with it the object."""
    kept = {
        "Job": ("template",),
        "Deployment": ("selector",),
        "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates"),
    }
    before = list(yaml.safe_load_all(render(copied / "overlays" / "gpu")))
    kustomization = copied / "overlays" / "gpu" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("newTag: 0.1.0", "newTag: 0.2.0"))
    after = list(yaml.safe_load_all(render(copied / "overlays" / "gpu")))
    refused = {
        (kind, name)
        for kind, fields in kept.items()
        for name, each in named(before, kind).items()
        if any(each["spec"].get(field) != named(after, kind)[name]["spec"].get(field) for field in fields)
    }
    deleted = re.findall(r"^k delete job (\w+) --ignore-not-found && kubectl apply -k", PAGE.read_text(), re.MULTILINE)
    assert refused == {("Job", name) for name in deleted}
    assert all(named(before, "Job")[name]["spec"]["ttlSecondsAfterFinished"] <= 600 for name in deleted)


@pytest.mark.parametrize(("overlay", "mode"), [("gpu", "ReadWriteOnce"), ("keda", "ReadWriteMany")])
def test_what_workers_compile_outlives_them_and_reaches_as_many_nodes_as_the_weights(overlay: str, mode: str) -> None:
    objects = list(yaml.safe_load_all(render(ROOT / "k8s" / "overlays" / overlay)))
    volumes = named(objects, "Deployment")["worker"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}} in volumes
    claims = named(objects, "PersistentVolumeClaim")
    assert [claims[name]["spec"]["accessModes"] for name in ("models", "cache")] == [[mode], [mode]]


def test_prometheus_operator_gets_the_rules_that_prometheus_gets() -> None:
    assert RULES.read_text() == prometheus_rule(ALERTS), "run python -m tests.k8s"
