"""Whatever is wrong with the weights becomes one clear error."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from shared.errors import ModelUnavailable
from tests.unit.redux.fake_hub import FakeHub
from tests.unit.redux.running import load
from worker.redux.weights import Weights, load_weights

#: diffusers 0.42.1 hands the hub's client an argument that it no longer knows.
DIFFUSERS_WARNS = pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument is deprecated")


def test_everything_is_ready_for_inference(weights: Weights) -> None:
    for network in (weights.transformer, weights.vae, weights.image_encoder, weights.image_embedder):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_weights_without_our_mark_count_as_trained(copy: Path) -> None:
    path = copy / "base" / "transformer" / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_reduxq_untrained"}
    path.write_text(json.dumps(config))
    assert load(copy).trained


def test_siglip_with_the_hubs_longer_tensor_names_is_the_same(copy: Path, weights: Weights) -> None:
    path = copy / "redux" / "image_encoder" / "model.safetensors"
    renamed = {f"vision_model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    ours, theirs = load(copy).image_encoder.state_dict(), weights.image_encoder.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=rf"{tmp_path}/base: there is no such folder.*reduxq model pull"):
        load(tmp_path)


@pytest.mark.parametrize(
    "absent",
    [
        "base/transformer",
        "base/transformer/diffusion_pytorch_model.safetensors",
        "base/vae/config.json",
        "base/scheduler",
        "redux/image_encoder/config.json",
        "redux/image_embedder/diffusion_pytorch_model.safetensors",
        "redux/feature_extractor/preprocessor_config.json",
    ],
)
def test_an_incomplete_folder_names_the_part_it_lacks(copy: Path, absent: str) -> None:
    path = copy / absent
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(ModelUnavailable, match=rf"{absent.split('/')[1]} .*reduxq model pull") as caught:
        load(copy)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("part", ["base/vae/diffusion_pytorch_model", "redux/image_encoder/model"])
def test_a_truncated_file_is_refused(copy: Path, part: str) -> None:
    path = copy / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelUnavailable, match=part.split("/")[1]):
        load(copy)


@pytest.mark.parametrize("part", ["base/vae/diffusion_pytorch_model", "redux/image_encoder/model"])
def test_a_missing_tensor_is_not_filled_with_random_numbers(copy: Path, part: str) -> None:
    path = copy / f"{part}.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=f"lacks 1 of its tensors, {name} first"):
        load(copy)


def test_a_pickle_is_never_opened(copy: Path) -> None:
    folder = copy / "base" / "vae"
    AutoencoderKL.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"vae .*safetensors"):
        load(copy)


def test_parts_of_different_models_do_not_fit(copy: Path) -> None:
    path = copy / "redux" / "image_embedder" / "diffusion_pytorch_model.safetensors"
    config = path.with_name("config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "txt_in_features": 32}))
    tensors = {
        "redux_up.weight": (96, 32),
        "redux_up.bias": (96,),
        "redux_down.weight": (32, 96),
        "redux_down.bias": (32,),
    }
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="does not fit"):
        load(copy)


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_an_unusable_device_is_named(bundle: Path, device: str) -> None:
    with pytest.raises(ModelUnavailable, match=rf"device '{device}' cannot be used; mend REDUXQ_MODEL__DEVICE"):
        load(bundle, device=device)


@DIFFUSERS_WARNS
def test_a_hub_id_is_loaded_from_the_hub(hub: FakeHub, bundle: Path, weights: Weights) -> None:
    hub.stock(bundle)
    loaded = load_weights("acme/flux", "acme/redux", dtype="float32", device="cpu")
    theirs = weights.transformer.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.transformer.state_dict().items())
    assert "text_encoder_2/model.safetensors" not in hub.fetched


@DIFFUSERS_WARNS
@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((401, "GatedRepo"), "accept the licence"),
        ((403, "Forbidden"), "accept the licence"),
        ((404, "RepoNotFound"), ""),
    ],
)
def test_a_hub_that_refuses_is_understood_through_every_wrapping(
    hub: FakeHub, refusal: tuple[int, str], advice: str
) -> None:
    hub.refusal = refusal
    with pytest.raises(ModelUnavailable, match=rf"acme/flux: .*{advice}.*HF_TOKEN"):
        load_weights("acme/flux", "acme/redux", dtype="float32", device="cpu")


def test_an_error_that_is_none_of_these_passes_through(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", broken)
    with pytest.raises(ZeroDivisionError):
        load(bundle)
