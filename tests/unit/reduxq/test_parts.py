import os
from pathlib import Path

import pytest

from reduxq.local import parts
from reduxq.local.folder import Kept
from reduxq.local.parts import Plan
from reduxq.local.process import Part
from shared.errors import Misconfigured


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("REDUXQ_", "FLOWER_", "OMP_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    ports = {"api": 1, "redis": 2, "s3": 3, "flower": 4}
    return Plan(tmp_path, Kept(api_key="rq_secret", ports=ports), workers=2)


def all_parts(plan: Plan) -> list[Part]:
    single = [make(plan) for make in (parts.redis, parts.s3, parts.flower)]
    return [*single, *parts.model_makers(plan), *parts.front(plan), *parts.workers(plan)]


def test_no_secret_stands_in_a_command(plan: Plan) -> None:
    secrets = [value for name, value in plan.kept if name not in {"flower_user", "ports"}]
    for part in all_parts(plan):
        assert not any(secret in argument for secret in secrets for argument in part.command)


def test_the_servers_configuration_is_private_and_keeps_every_job(plan: Plan) -> None:
    part = parts.redis(plan)
    configuration = Path(part.command[1])
    assert configuration.stat().st_mode & 0o777 == 0o600
    lines = configuration.read_text().splitlines()
    assert {"bind 127.0.0.1", "appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(lines)
    assert f"requirepass {plan.kept.redis_password}" in lines


def test_the_bucket_is_there_before_the_server(plan: Plan) -> None:
    parts.s3(plan)
    assert (plan.folder / "s3" / "reduxq").is_dir()


def test_the_tiny_model_is_made_once(plan: Plan) -> None:
    [maker] = parts.model_makers(plan)
    assert maker.command[-2:] == ("worker.redux.tiny", str(plan.folder / "model"))
    for name in ("base", "redux"):
        (plan.folder / "model" / name).mkdir(parents=True)
    assert parts.model_makers(plan) == [maker]  # one of an older version lacks the safety checker
    (plan.folder / "model" / "safety").mkdir()
    assert parts.model_makers(plan) == []
    environment = parts.workers(plan)[0].environment
    assert environment["REDUXQ_MODEL__BASE"] == str(plan.folder / "model" / "base")
    assert environment["REDUXQ_MODEL__SAFETY_CHECKER"] == str(plan.folder / "model" / "safety")
    assert environment["REDUXQ_MODEL__DEVICE"] == "cpu"


def test_a_model_of_the_users_own_takes_the_place_of_the_tiny_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUXQ_MODEL__BASE", "somebody/model")
    assert parts.model_makers(plan) == []
    environment = parts.workers(plan)[0].environment
    assert environment["REDUXQ_MODEL__BASE"] == "somebody/model"
    assert not {"REDUXQ_MODEL__DEVICE", "REDUXQ_MODEL__SAFETY_CHECKER"} & set(environment)


@pytest.mark.parametrize("half", ["BASE", "REDUX"])
def test_half_a_model_is_refused(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.require_whole_model()
    monkeypatch.setenv(f"REDUXQ_MODEL__{half}", "somebody/model")
    with pytest.raises(Misconfigured, match="name both REDUXQ_MODEL__BASE and REDUXQ_MODEL__REDUX"):
        parts.require_whole_model()


def test_the_users_settings_go_through_but_not_the_servers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "REDUXQ_RECORDS__URL": "redis://elsewhere",
        "REDUXQ_STORAGE__PUBLIC_ENDPOINT": "https://elsewhere",
        "REDUXQ_WORKER__NAME": "one for all",
        "REDUXQ_MODEL__REDUX": "",
        "REDUXQ_WORKER__SLOTS": "9",
        "REDUXQ_WORKER__GRACE_SECONDS": "9",
        "FLOWER_BASIC_AUTH": "anybody:known",
        "RCLONE_AUTH_KEY": "known",
        "NO_PROXY": "here",
    }.items():
        monkeypatch.setenv(name, value)
    environment = parts.workers(plan)[0].environment
    assert environment["REDUXQ_RECORDS__URL"] == plan.redis_url(0)
    assert environment["REDUXQ_STORAGE__PUBLIC_ENDPOINT"] == plan.url("s3")
    assert environment["REDUXQ_WORKER__SLOTS"] == "9"
    assert environment["REDUXQ_WORKER__GRACE_SECONDS"] == "2"  # within what the supervisor waits
    assert environment["REDUXQ_MODEL__REDUX"] == str(plan.folder / "model" / "redux")
    assert environment["NO_PROXY"] == "here,127.0.0.1"
    assert environment["REDUXQ_WORKER__NAME"] == "local-1"
    assert not {"FLOWER_BASIC_AUTH", "RCLONE_AUTH_KEY"} & set(environment)
    assert parts.flower(plan).environment["FLOWER_BASIC_AUTH"] == f"reduxq:{plan.kept.flower_password}"


def test_only_several_workers_share_the_cores(plan: Plan) -> None:
    first, second = parts.workers(plan)
    assert (first.name, second.name) == ("worker-1", "worker-2")
    assert int(first.environment["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
    [alone] = parts.workers(Plan(plan.folder, plan.kept, workers=1))
    assert "OMP_NUM_THREADS" not in alone.environment
