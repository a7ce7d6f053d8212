"""The safety checker of real classes and random weights: what it tells, and what it refuses to start with."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from shared.errors import ModelUnavailable
from shared.images import Picture
from tests.unit.redux.fake_hub import FakeHub
from tests.unit.redux.pictures import beach, portrait
from tests.unit.redux.running import finish, recipe
from worker.redux.model import ReduxModel
from worker.redux.safety import SafetyChecker

PLAIN = ("white", "black", "grey", "red", "pink")


@pytest.fixture
def folder(bundle: Path, tmp_path: Path) -> Path:
    """Return a tiny safety checker to break."""
    return Path(shutil.copytree(bundle / "safety", tmp_path / "safety"))


@pytest.fixture(scope="module")
def checker(bundle: Path) -> SafetyChecker:
    return SafetyChecker.load(str(bundle / "safety"))


@pytest.fixture(scope="module")
def variations(model: ReduxModel) -> list[Picture]:
    return [model.decode(row)() for row in finish(model, beach(), recipe([1, 2, 3, 4]))]


def test_the_tiny_one_finds_everything_harmless_but_not_equally_so(
    checker: SafetyChecker, variations: list[Picture]
) -> None:
    pictures = [*variations, beach(), portrait(), *(Image.new("RGB", (64, 48), colour) for colour in PLAIN)]
    scores = checker.scores(pictures)
    assert all(0.01 < score < 0.25 for score in scores)
    assert len({round(score, 4) for score in scores}) == len(pictures)


def test_a_score_is_the_probability_that_transformers_itself_tells(bundle: Path, checker: SafetyChecker) -> None:
    pictures = [beach(), portrait()]
    theirs = transformers.pipeline(
        "image-classification", str(bundle / "safety"), image_processor=checker._processor, device="cpu"
    )
    expected = [answer["score"] for told in theirs(pictures) for answer in told if answer["label"] == "nsfw"]
    assert checker.scores(pictures) == pytest.approx(expected, abs=1e-5)


def test_each_picture_has_its_own_score_whoever_else_is_asked_about(
    checker: SafetyChecker, variations: list[Picture]
) -> None:
    alone = [score for picture in variations for score in checker.scores([picture])]
    assert checker.scores(variations) == pytest.approx(alone, abs=1e-5)
    assert checker.scores(variations[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_several_jobs_may_ask_at_a_time(checker: SafetyChecker, variations: list[Picture]) -> None:
    expected = checker.scores(variations)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(checker.scores, [variations] * 16):
            assert scores == pytest.approx(expected, abs=1e-5)


def test_the_class_is_found_whatever_its_place_and_case(folder: Path, checker: SafetyChecker) -> None:
    relabel(folder, "NSFW", "Safe")
    [turned], [score] = SafetyChecker.load(str(folder)).scores([beach()]), checker.scores([beach()])
    assert turned == pytest.approx(1 - score, abs=1e-5)


@pytest.mark.parametrize("labels", [("cat", "dog"), ("nsfw", "NSFW")])
def test_a_classifier_that_cannot_tell_is_refused(folder: Path, labels: tuple[str, str]) -> None:
    relabel(folder, *labels)
    message = rf"{folder} is no safety checker: .* {labels[0]}.*; mend REDUXQ_MODEL__SAFETY_CHECKER"
    with pytest.raises(ModelUnavailable, match=message):
        SafetyChecker.load(str(folder))


def test_a_missing_tensor_is_not_filled_with_random_numbers(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["classifier.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"lacks 1 of its tensors, classifier.weight first.*reduxq model pull"):
        SafetyChecker.load(str(folder))


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "preprocessor_config.json", ""])
def test_an_incomplete_folder_is_named_with_the_remedy(folder: Path, absent: str) -> None:
    shutil.rmtree(folder) if not absent else (folder / absent).unlink()
    with pytest.raises(ModelUnavailable, match=rf"safety checker cannot be had from {folder}.*reduxq model pull"):
        SafetyChecker.load(str(folder))


def test_a_pickle_is_never_opened(folder: Path) -> None:
    network = ViTForImageClassification.from_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="safetensors"):
        SafetyChecker.load(str(folder))


def test_code_beside_the_weights_is_never_run(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    with pytest.raises(ModelUnavailable, match="safety checker cannot be had"):
        SafetyChecker.load(str(folder))
    assert not (folder / "ran").exists()


def test_scores_that_are_no_numbers_are_an_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    broken = {**load_file(path), "classifier.bias": torch.tensor([float("nan"), 0])}
    save_file(broken, path, metadata={"format": "pt"})
    with pytest.raises(ArithmeticError):
        SafetyChecker.load(str(folder)).scores([beach()])


def test_a_hub_id_is_loaded_from_the_hub(hub: FakeHub, bundle: Path, checker: SafetyChecker) -> None:
    hub.stock(bundle)
    assert SafetyChecker.load("acme/checker").scores([beach()]) == checker.scores([beach()])


def test_a_hub_that_refuses_is_told_from_one_that_does_not_know(hub: FakeHub) -> None:
    hub.refusal = (401, "GatedRepo")
    with pytest.raises(ModelUnavailable, match=r"accept the licence at https://huggingface.co/acme/checker"):
        SafetyChecker.load("acme/checker")
    hub.refusal = (404, "RepoNotFound")
    with pytest.raises(ModelUnavailable, match="the hub knows no such repository"):
        SafetyChecker.load("acme/checker")


def relabel(folder: Path, *labels: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    path.write_text(json.dumps({**config, **named}))
