"""The tiny model, written once, loaded once for all tests."""

from pathlib import Path

import pytest
from torch import Tensor

from tests.unit.redux.pictures import beach
from worker.redux.model import ReduxModel
from worker.redux.tiny import write_tiny
from worker.redux.weights import Weights, load_weights


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def weights(bundle: Path) -> Weights:
    return load_weights(str(bundle / "base"), str(bundle / "redux"), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def model(weights: Weights) -> ReduxModel:
    return ReduxModel(weights)


@pytest.fixture(scope="session")
def condition(model: ReduxModel) -> Tensor:
    return model.condition(beach())
