"""``python -m worker.redux.pull`` against a hub on the loopback, through the hub's real client."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.redux.fake_hub import FakeHub, serve
from worker.redux.safety import SafetyChecker
from worker.redux.weights import load_weights


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve() as hub:
        yield hub


def pull(hub_url: str, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-m", "worker.redux.pull", *arguments]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_what_was_pulled_can_be_loaded(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    hub.stock(bundle)
    ended = pull(hub.url, tmp_path, "--into", str(tmp_path / "models"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        f"REDUXQ_MODEL__BASE={tmp_path}/models/base",
        f"REDUXQ_MODEL__REDUX={tmp_path}/models/redux",
        f"REDUXQ_MODEL__SAFETY_CHECKER={tmp_path}/models/safety_checker",
    ]
    base, redux, safety_checker = (line.partition("=")[2] for line in ended.stdout.splitlines())
    load_weights(base, redux, precision="float32", device="cpu")
    SafetyChecker.load(safety_checker)


def test_the_hubs_own_cache_is_used_unless_a_folder_is_named(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    hub.stock(bundle)
    ended = pull(hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    base, redux, safety_checker = (line.partition("=")[2] for line in ended.stdout.splitlines())
    assert Path(base).is_relative_to(tmp_path)
    load_weights(base, redux, precision="float32", device="cpu")
    SafetyChecker.load(safety_checker)


def test_only_what_is_loaded_is_fetched_with_the_licence(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    hub.stock(bundle)
    pull(hub.url, tmp_path)
    assert "LICENSE.md" in hub.fetched
    assert "transformer/diffusion_pytorch_model.safetensors" in hub.fetched
    assert not hub.fetched & {"text_encoder_2/model.safetensors", "flux1-dev.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((401, "GatedRepo"), "the hub refuses access; accept the licence at https://huggingface.co/acme/flux"),
        ((403, "GatedRepo"), "the hub refuses access"),
        ((401, "Unauthorized"), "set HF_TOKEN"),
        ((403, "Forbidden"), "the hub refuses access"),
        ((404, "RepoNotFound"), "the hub knows no such repository"),
    ],
)
def test_a_refusal_says_what_to_do(hub: FakeHub, tmp_path: Path, refusal: tuple[int, str], advice: str) -> None:
    hub.refusal = refusal
    ended = pull(hub.url, tmp_path, "--base", "acme/flux")
    assert ended.returncode == 1
    assert advice in ended.stderr.splitlines()[-1]
    assert "acme/flux" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    ended = pull("http://127.0.0.1:9", tmp_path)
    assert ended.returncode == 1
    assert "the hub cannot be reached" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_name_that_is_no_hub_id_is_refused(tmp_path: Path) -> None:
    ended = pull("http://127.0.0.1:9", tmp_path, "--base", "/no/such/folder")
    assert ended.returncode == 1
    assert "no hub id" in ended.stderr.splitlines()[-1]


def test_the_licence_is_named_first(tmp_path: Path) -> None:
    ended = pull("http://127.0.0.1:9", tmp_path, "--base", "acme/flux")
    assert "FLUX.1 [dev] Non-Commercial License" in ended.stderr.splitlines()[0]
    assert "https://huggingface.co/acme/flux" in ended.stderr
