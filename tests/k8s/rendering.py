"""What kubectl makes of k8s/."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.k8s.kubectl import kubectl
from tests.servers import ROOT

OVERLAYS: Final = ("cpu-demo", "gpu", "keda", "monitoring")
PINS: Final = Path(__file__).parent / "node"
WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "Job"})

Object = dict[str, Any]


def render(folder: Path) -> str:
    """Return what is applied for an overlay."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def objects(overlay: str) -> list[Object]:
    """Return the objects of an overlay; who changes one copies it first."""
    return list(yaml.safe_load_all(render(ROOT / "k8s" / "overlays" / overlay)))


def secrets() -> dict[str, dict[str, str]]:
    """Return what ``secrets.sh`` gives an operator to apply, by name."""
    text = subprocess.run([ROOT / "k8s" / "secrets.sh"], capture_output=True, text=True, check=True, timeout=10).stdout
    return {each["metadata"]["name"]: each["stringData"] for each in yaml.safe_load_all(text)}


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of one kind by their names."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> dict[str, Object]:
    """Return the pod templates by the names of their workloads."""
    return {each["metadata"]["name"]: each["spec"]["template"] for each in objects if each["kind"] in WORKLOADS}


def containers(pod: Object) -> list[Object]:
    found: list[Object] = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    return found


def environment(container: Object, objects: list[Object], secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the variables that a container finds; what the pod alone knows is its name here."""
    given: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "secretRef" in source:
            given |= secrets[source["secretRef"]["name"]]
        else:
            given |= named(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return given | dict(_own(container, secrets))


def _own(container: Object, secrets: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for variable in container.get("env", ()):
        key = variable.get("valueFrom", {}).get("secretKeyRef")
        yield variable["name"], secrets[key["name"]][key["key"]] if key else variable.get("value", "its-name")
