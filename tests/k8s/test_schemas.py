"""Every object is what its kind allows; a field that nobody knows would be dropped in silence, or refused too late."""

import json
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.clients.node import install_node
from tests.k8s.rendering import OVERLAYS, PINS, Object, named, objects

pytestmark = pytest.mark.slow

KUBERNETES = "1.34"
#: npm's types of what kubernetes-validate does not know. Its validators let unknown fields pass, its types do not.
EXTENSIONS = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
}
#: What KEDA's metrics-api scaler reads; its schema takes any name there. Source: keda.sh/docs, scalers, metrics-api.
METRICS_API = {"url", "valueLocation", "targetValue", "activationTargetValue", "unsafeSsl", "authMode"}


def type_faults(objects: list[Object], folder: Path) -> str:
    """Return what TypeScript finds wrong with objects of extensions; nothing if they are right."""
    node = install_node(PINS)
    lines = []
    for number, each in enumerate(objects):
        kind = each["kind"]
        lines.append(f'import type {{ I{kind} as Type{number} }} from "{EXTENSIONS[kind]}";')
        lines.append(f"export const object{number}: Type{number} = {json.dumps(each)};")
    (folder / "objects.mts").write_text("\n".join(lines))
    (folder / "node_modules").symlink_to(node.modules)
    compiler = [str(node.program), str(node.modules / "typescript" / "bin" / "tsc")]
    options = ["--noEmit", "--strict", "--module", "nodenext", "objects.mts"]
    return subprocess.run(
        [*compiler, *options], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    ).stdout


def changed(each: Object, path: list[str | int], value: object) -> Object:
    """Return a copy with one value at a path."""
    copy: Any = deepcopy(each)
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    result: Object = copy
    return result


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_what_kubernetes_knows(overlay: str) -> None:
    rendered = objects(overlay)
    for each in rendered:
        if each["kind"] not in EXTENSIONS:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered]
    assert len(names) == len(set(names))
    assert {namespace for kind, namespace, _ in names if kind != "Namespace"} == {"reduxq"}


def test_a_field_that_kubernetes_does_not_know_is_refused() -> None:
    worker = named(objects("gpu"), "Deployment")["worker"]
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGraceSeconds"):
        kubernetes_validate.validate(
            changed(worker, ["spec", "template", "spec", "terminationGraceSeconds"], 1), KUBERNETES, strict=True
        )


@pytest.mark.parametrize("overlay", ["keda", "monitoring"])
def test_every_object_of_an_extension_is_what_its_types_say(overlay: str, tmp_path: Path) -> None:
    extensions = [each for each in objects(overlay) if each["kind"] in EXTENSIONS]
    assert extensions
    assert type_faults(extensions, tmp_path) == ""


@pytest.mark.parametrize(
    ("overlay", "kind", "path"),
    [
        ("keda", "ScaledObject", ["spec", "maxReplicas"]),
        ("keda", "ScaledObject", ["spec", "triggers", 0, "metricTypes"]),
        ("keda", "ScaledObject", ["spec", "advanced", "horizontalPodAutoscalerConfig", "behaviour"]),
        ("monitoring", "ServiceMonitor", ["spec", "endpoints", 0, "intervall"]),
        ("monitoring", "PrometheusRule", ["spec", "group"]),
    ],
)
def test_a_misspelt_field_of_an_extension_is_refused(
    overlay: str, kind: str, path: list[str | int], tmp_path: Path
) -> None:
    (right,) = named(objects(overlay), kind).values()
    assert f"""'"{path[-1]}"' does not exist""" in type_faults([changed(right, path, "8")], tmp_path)


def test_the_scaler_is_told_what_it_reads() -> None:
    (scaled,) = named(objects("keda"), "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    assert {"url", "valueLocation", "targetValue"} <= set(trigger["metadata"]) <= METRICS_API
