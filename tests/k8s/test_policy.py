"""What we ask of every pod, beyond what its schema asks."""

import re
import tomllib
from itertools import product
from typing import Any

import pytest

from tests.k8s.rendering import OVERLAYS, Object, containers, environment, named, objects, pods, secrets
from tests.servers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("overlay", OVERLAYS)]

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PROBES = {"startupProbe", "livenessProbe", "readinessProbe"}


def selected(selector: Object, labels: dict[str, str]) -> bool:
    """Say whether a label selector means a pod."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    rules = selector.get("matchExpressions", ())
    assert all(rule["operator"] == "In" for rule in rules)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(rule["key"]) in rule["values"] for rule in rules
    )


def port_number(pod: Object, port: Any) -> Any:
    """Return the number of a pod's port, by its name or number."""
    names = {each["name"]: each["containerPort"] for each in pod["spec"]["containers"][0].get("ports", ())}
    return names[port] if isinstance(port, str) else port


def test_every_image_is_a_fixed_one_that_compose_has_too(overlay: str) -> None:
    images = {each["image"] for pod in pods(objects(overlay)).values() for each in containers(pod)}
    assert len(images) >= 3
    composed = (ROOT / "docker-compose.yml").read_text().split()
    for image in images:
        assert image in composed
        assert re.fullmatch(rf"reduxq-(api|worker):{VERSION}(-cpu)?|.+@sha256:[0-9a-f]{{64}}", image)


def test_every_container_has_requests_and_limits(overlay: str) -> None:
    for pod in pods(objects(overlay)).values():
        for each in containers(pod):
            resources = each["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() & resources["limits"].keys(), each["name"]
        for volume in pod["spec"].get("volumes", ()):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume


def test_whatever_serves_has_all_probes(overlay: str) -> None:
    for each in objects(overlay):
        if each["kind"] in {"Deployment", "StatefulSet"}:
            pod = each["spec"]["template"]
            (container,) = pod["spec"]["containers"]
            assert container.keys() >= PROBES, each["metadata"]["name"]
            for name in PROBES:
                action = container[name].get("httpGet") or container[name].get("tcpSocket")
                assert action is None or port_number(pod, action["port"])


def test_every_pod_is_restricted_and_its_root_is_read_only(overlay: str) -> None:
    namespace = named(objects(overlay), "Namespace")["reduxq"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(objects(overlay)).values():
        spec, context = pod["spec"], pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # or Settings would refuse REDUXQ_..., and Flower take FLOWER_PORT
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for each in containers(pod):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_whatever_is_referred_to_exists_and_no_secret_is_rendered(overlay: str) -> None:
    rendered, there = objects(overlay), secrets()
    assert not named(rendered, "Secret")
    for pod in pods(rendered).values():
        for each in containers(pod):
            environment(each, rendered, there)  # KeyError if it lacks something
            mounted = {mount["name"] for mount in each.get("volumeMounts", ())}
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
            assert mounted <= volumes | {"data"}, each["name"]
        for volume in pod["spec"].get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in named(rendered, "PersistentVolumeClaim")
            if "configMap" in volume:
                assert volume["configMap"]["name"] in named(rendered, "ConfigMap")
            if "secret" in volume:
                assert {item["key"] for item in volume["secret"]["items"]} <= there[
                    volume["secret"]["secretName"]
                ].keys()


def test_services_and_budgets_mean_pods_that_exist(overlay: str) -> None:
    rendered = objects(overlay)
    for name, service in named(rendered, "Service").items():
        meant = [
            p for p in pods(rendered).values() if service["spec"]["selector"].items() <= p["metadata"]["labels"].items()
        ]
        assert meant, name
        for pod, port in product(meant, service["spec"]["ports"]):
            exposed = {each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]}
            assert port_number(pod, port.get("targetPort", port["port"])) in exposed
    for name, budget in named(rendered, "PodDisruptionBudget").items():
        assert selected(budget["spec"]["selector"], pods(rendered)[name]["metadata"]["labels"])
    assert named(rendered, "PodDisruptionBudget").keys() == {"api", "dispatcher", "worker"}


def test_a_drain_ends_before_kubernetes_kills(overlay: str) -> None:
    rendered = objects(overlay)
    worker, api = pods(rendered)["worker"]["spec"], pods(rendered)["api"]["spec"]
    grace = int(environment(worker["containers"][0], rendered, secrets())["REDUXQ_WORKER__GRACE_SECONDS"])
    assert worker["terminationGracePeriodSeconds"] >= grace + 60  # what runs is handed back within 30 s
    assert api["terminationGracePeriodSeconds"] >= 5 + 10 + 10  # preStop, open connections, and some time to spare


def test_pods_reach_one_another_only_where_they_must(overlay: str) -> None:
    rendered = objects(overlay)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(rendered).items()}
    policies = list(named(rendered, "NetworkPolicy").values())
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [each["spec"] for each in policies]

    def flows(way: str, peers: str) -> set[tuple[str, str, int]]:
        """Return who may talk to whom at which port as the policies of one way have it."""
        found = set()
        for policy, one, other in product(policies, labels, labels):
            for rule in policy["spec"].get(way, ()) if selected(policy["spec"]["podSelector"], labels[one]) else ():
                near = [peer["podSelector"] for peer in rule.get(peers, ()) if peer.keys() == {"podSelector"}]
                if any(selected(peer, labels[other]) for peer in near):
                    client, server = (other, one) if way == "ingress" else (one, other)
                    ports = [port_number(pods(rendered)[server], port["port"]) for port in rule["ports"]]
                    found |= {(client, server, port) for port in ports}
        return found

    expected = {(client, "valkey", 6379) for client in ("api", "dispatcher", "worker", "flower")}
    if overlay == "cpu-demo":
        expected |= {(client, "s3", 7070) for client in ("api", "dispatcher", "worker")}
    assert flows("egress", "to") == flows("ingress", "from") == expected


def test_only_those_who_call_out_may_and_only_at_https(overlay: str) -> None:
    rendered = objects(overlay)
    out = [
        (policy["metadata"]["name"], {port["port"] for port in rule["ports"]})
        for policy in named(rendered, "NetworkPolicy").values()
        for rule in policy["spec"].get("egress", ())
        if not all("podSelector" in peer for peer in rule.get("to", [{}]))
    ]
    expected = [("names", {53}), ("to-public-https", {443})]
    assert sorted(out) == sorted(expected if overlay == "cpu-demo" else [*expected, ("model-to-hub", {443})])
