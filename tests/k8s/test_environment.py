import os
import re
import subprocess
from pathlib import Path

import pytest

from shared.settings import PREFIX, Settings, load_settings
from tests.k8s.rendering import OVERLAYS, containers, environment, named, objects, pods, secrets
from tests.needed_memory import needed_memory

pytestmark = pytest.mark.slow

OURS = ("api", "dispatcher", "worker")
NAMES = {
    f"{PREFIX}{g}__{n}".upper() for g, field in Settings.model_fields.items() for n in type(field.default).model_fields
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_of_ours_is_a_setting(overlay: str) -> None:
    given = {
        name
        for pod in pods(objects(overlay)).values()
        for each in containers(pod)
        for name in environment(each, objects(overlay), secrets())
        if name.startswith(PREFIX)
    }
    assert given - NAMES == set(), "these are no settings"


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_can_be_built_of_every_deployments_environment(
    overlay: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pods(objects(overlay))[name]["spec"]["containers"]
    for key in [key for key in os.environ if key.startswith(PREFIX)]:
        monkeypatch.delenv(key)
    for key, value in environment(container, objects(overlay), secrets()).items():
        monkeypatch.setenv(key, value)
    settings = load_settings()
    limit = container["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) * 2**30 >= needed_memory(settings).get(name, 0)
    assert settings.records.url.get_secret_value().endswith("@valkey:6379/0")
    assert settings.storage.secret_key
    assert name != "worker" or settings.worker.name == "its-name"


def test_a_secret_is_in_the_environment_of_those_who_need_it_alone() -> None:
    given = {
        name: set(environment(pod["spec"]["containers"][0], objects("gpu"), secrets()))
        for name, pod in pods(objects("gpu")).items()
    }
    holders = {key: {name for name, keys in given.items() if key in keys} for key in ("HF_TOKEN", "FLOWER_BASIC_AUTH")}
    assert holders == {"HF_TOKEN": {"model"}, "FLOWER_BASIC_AUTH": {"flower"}}
    assert {name for name, keys in given.items() if "REDUXQ_STORAGE__SECRET_KEY" in keys} == set(OURS)


@pytest.mark.parametrize("name", ["dispatcher", "worker"])
@pytest.mark.parametrize(("age", "alive"), [(None, False), (5, True), (45, False)])
def test_a_process_lives_while_its_heartbeat_file_is_fresh(
    name: str,
    age: float | None,
    alive: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    (container,) = pods(objects("gpu"))[name]["spec"]["containers"]
    variable = f"REDUXQ_{name.upper()}__HEARTBEAT_FILE"
    assert environment(container, objects("gpu"), secrets())[variable].startswith("/tmp/")
    beat = tmp_path / "heartbeat"
    if age is not None:
        beat.touch()
        os.utime(beat, (beat.stat().st_mtime - age,) * 2)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = container[probe]["exec"]["command"]
        done = subprocess.run(
            command, env={**os.environ, variable: str(beat)}, capture_output=True, check=False, timeout=10
        )
        assert (done.returncode == 0) == alive


def test_workers_of_the_real_model_have_a_gpu_and_wait_for_the_weights_that_the_job_brings() -> None:
    rendered = objects("gpu")
    worker, job = pods(rendered)["worker"]["spec"], pods(rendered)["model"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {"medium": "Memory", "sizeLimit": "2Gi"} in [each.get("emptyDir") for each in worker["volumes"]]
    (waiting,) = worker["initContainers"]
    (done,) = re.findall(r"touch (\S+)", job["containers"][0]["command"][-1])
    assert done in waiting["command"][-1]
    settings = environment(worker["containers"][0], rendered, secrets())
    for part in ("base", "redux", "safety_checker"):  # as `reduxq model pull --into /models` puts them
        assert settings[f"REDUXQ_MODEL__{part.upper()}"] == f"/models/{part}"


def test_keda_asks_the_dispatcher_for_a_number_of_workers_and_has_the_same_bound() -> None:
    rendered = objects("keda")
    spec = named(rendered, "ScaledObject")["worker"]["spec"]
    (container,) = pods(rendered)["dispatcher"]["spec"]["containers"]
    settings = environment(container, rendered, secrets())
    assert spec["minReplicaCount"] == 0
    assert spec["maxReplicaCount"] == int(settings["REDUXQ_DISPATCHER__MAX_WORKERS"])
    told = spec["triggers"][0]["metadata"]
    assert told["url"] == f"http://dispatcher.reduxq.svc:{settings['REDUXQ_DISPATCHER__METRICS_PORT']}/scale"
    assert (told["valueLocation"], told["targetValue"]) == ("desiredWorkers", "1")
    assert "replicas" not in named(rendered, "Deployment")["worker"]["spec"]  # or each apply would undo KEDA's
