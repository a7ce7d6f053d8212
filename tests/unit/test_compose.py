import re
import subprocess
import sys
from pathlib import Path
from shutil import copy
from typing import Any, Final

import pytest

from shared.settings import Settings, load_settings
from tests.composed import COMPOSE, composed, settings_of
from tests.needed_memory import needed_memory
from tests.servers import ROOT

GIVEN: Final = {
    "REDIS_PASSWORD": "redis-secret",
    "S3_ACCESS_KEY": "s3-access",
    "S3_SECRET_KEY": "s3-secret",
    "S3_PUBLIC_URL": "https://s3.example.com",
    "FLOWER_PASSWORD": "flower-secret",
    "GRAFANA_PASSWORD": "grafana-secret",
    "HF_TOKEN": "hf-secret",
}
CONTENT: Final = composed(GIVEN)
SERVICES: Final[dict[str, dict[str, Any]]] = CONTENT["services"]
OURS: Final = sorted(name for name, service in SERVICES.items() if settings_of(service))
GPU_WORKERS: Final = [name for name in SERVICES if re.fullmatch(r"worker(-\d)?", name)]
#: Services that do one thing and end.
ERRANDS: Final = {"bucket", "model", "model-tiny"}


def settings_in(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in settings_of(SERVICES[service]).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def validated(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_follows_the_compose_specification() -> None:
    assert validated(COMPOSE).returncode == 0


def test_a_misspelt_field_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace", 1))
    assert "stop_grace" in validated(broken).stdout


@pytest.mark.parametrize("service", OURS)
def test_settings_can_be_built_from_a_services_environment(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(service, monkeypatch)
    records, storage = settings.records, settings.storage
    assert records.url.get_secret_value() == "redis://:redis-secret@redis:6379/0"
    assert records.durability == "aof"
    assert settings.broker.url.get_secret_value() == "redis://:redis-secret@redis:6379/1"
    assert (storage.endpoint, storage.public_endpoint) == ("http://s3:7070", "https://s3.example.com")
    assert storage.access_key is not None
    assert storage.access_key.get_secret_value() == SERVICES["s3"]["environment"]["ROOT_ACCESS_KEY"]
    assert storage.secret_key is not None
    assert storage.secret_key.get_secret_value() == SERVICES["s3"]["environment"]["ROOT_SECRET_KEY"]
    assert storage.region == SERVICES["s3"]["environment"]["VGW_REGION"]


@pytest.mark.parametrize("missing", sorted(GIVEN.keys() - {"HF_TOKEN"}))
def test_without_a_secret_nothing_starts(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        composed({name: value for name, value in GIVEN.items() if name != missing})


def test_no_secret_is_an_argument_or_stands_where_it_is_not_needed() -> None:
    for name, service in SERVICES.items():
        assert "secret" not in str(service.get("command")) + str(service.get("healthcheck")), name
    assert [name for name, service in SERVICES.items() if "hf-secret" in str(service)] == ["model"]
    assert "s3-secret" not in str(SERVICES["flower"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "logging"} <= service.keys()
    assert service["restart"] == ("on-failure:3" if name in ERRANDS else "unless-stopped")
    assert not {"privileged", "cap_add", "pid", "ipc"} & service.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_ours_at_our_version_or_pinned_by_digest(name: str) -> None:
    ours = r"reduxq-(api|worker):0\.1\.0(-cpu)?"
    foreign = r"docker\.io/\w+/\w+:v?\d+\.\d+\.\d+(-alpine)?@sha256:[0-9a-f]{64}"
    assert re.fullmatch(f"{ours}|{foreign}", SERVICES[name]["image"])


def test_each_of_our_images_is_built_by_one_service() -> None:
    built = sorted(service["image"] for service in SERVICES.values() if "build" in service)
    assert built == sorted({service["image"] for service in SERVICES.values() if service["image"].startswith("reduxq")})


def test_only_api_and_s3_can_be_reached_from_elsewhere_and_only_if_asked_for() -> None:
    def published(**more: str) -> dict[str, list[str]]:
        services = composed({**GIVEN, **more})["services"]
        return {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert all(port.startswith("127.0.0.1:") for ports in published().values() for port in ports)
    opened = published(BIND="0.0.0.0")
    assert {name for name, ports in opened.items() if ports[0].startswith("0.0.0.0:")} == {"api", "s3"}


def test_records_and_workers_have_no_way_out() -> None:
    assert CONTENT["networks"]["inside"] == {"internal": True}
    shut_in = {name for name, service in SERVICES.items() if service.get("networks") == ["inside"]}
    assert shut_in == {"redis", "worker-cpu", *GPU_WORKERS}


@pytest.mark.parametrize("name", OURS)
def test_a_service_starts_when_its_servers_are_well(name: str) -> None:
    needed = SERVICES[name]["depends_on"]
    assert needed["redis"] == needed["s3"] == {"condition": "service_healthy"}
    assert all("test" in SERVICES[server]["healthcheck"] for server in ("redis", "s3"))
    if "worker" in name:
        model = "model-tiny" if name == "worker-cpu" else "model"
        assert needed[model] == {"condition": "service_completed_successfully"}
        assert set(SERVICES[name]["profiles"]) <= set(SERVICES[model]["profiles"])


def test_each_gpu_has_one_worker_with_a_profile_and_a_name_of_its_own() -> None:
    devices = [
        SERVICES[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for name in GPU_WORKERS
    ]
    assert devices == [[str(number)] for number in range(8)]
    assert [SERVICES[name]["profiles"] for name in GPU_WORKERS] == [["gpu"], *([f"gpu-{n}"] for n in range(1, 8))]
    assert [SERVICES[name]["hostname"] for name in GPU_WORKERS] == [f"worker-{number}" for number in range(8)]


@pytest.mark.parametrize("name", [*GPU_WORKERS, "worker-cpu"])
def test_a_worker_has_the_time_to_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_hangs = 15  # seconds, as docs/reliability.md has it
    grace = settings_in(name, monkeypatch).worker.grace_seconds.total_seconds()
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= grace + storage_hangs


def test_the_records_server_forgets_nothing_and_reads_its_password_from_a_file() -> None:
    script = SERVICES["redis"]["command"][-1]
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "--dir /data"):
        assert option in script
    assert "requirepass" in script.splitlines()[1]
    assert "exec valkey-server" in script  # so that a signal reaches it
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def drawn(folder: Path) -> str:
    subprocess.run(
        ["make", "--file", ROOT / "Makefile", ".env", f"PYTHON={sys.executable}"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return (folder / ".env").read_text()


def test_env_is_drawn_once_complete_and_private(tmp_path: Path) -> None:
    copy(ROOT / ".env.example", tmp_path)
    text = drawn(tmp_path)
    given = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert composed(given)["services"].keys() == SERVICES.keys()
    secrets = [value for name, value in given.items() if name.endswith(("PASSWORD", "KEY"))]
    assert len(secrets) == len(set(secrets)) == 5
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert drawn(tmp_path) == text


@pytest.mark.parametrize("name", ["api", "dispatcher"])
def test_the_largest_images_do_not_end_a_container_for_its_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = int(SERVICES[name]["mem_limit"].removesuffix("g")) * 2**30
    assert limit >= needed_memory(settings_in(name, monkeypatch))[name]
