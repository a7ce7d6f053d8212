"""The tiny model, written once, loaded once for all tests; a hub to load it from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.unit.redux.fake_hub import FakeHub, serve
from tests.unit.redux.running import load, make_model
from worker.redux.model import ReduxModel
from worker.redux.tiny import write_tiny
from worker.redux.weights import Weights


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny(folder)
    return folder


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Return a tiny model to break."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def weights(bundle: Path) -> Weights:
    return load(bundle)


@pytest.fixture(scope="session")
def model(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> ReduxModel:
    return make_model(weights, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Return the hub that this process believes in."""
    with serve() as hub:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        yield hub
