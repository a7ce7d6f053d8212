"""Whatever is wrong with the weights becomes one clear error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from shared.errors import ModelUnavailable
from tests.servers import ROOT
from tests.unit.redux.fake_hub import FakeHub
from tests.unit.redux.running import difference, load
from worker.redux import float8
from worker.redux.float8 import Float8Linear
from worker.redux.weights import Weights, load_weights

#: diffusers 0.42.1 hands the hub's client an argument that it no longer knows.
DIFFUSERS_WARNS = pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument is deprecated")

TRANSFORMER = "base/transformer/diffusion_pytorch_model"
PARTS = [TRANSFORMER, "base/vae/diffusion_pytorch_model", "redux/image_encoder/model"]


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


@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_file_is_refused(copy: Path, part: str) -> None:
    path = copy / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelUnavailable, match=part.split("/")[1]):
        load(copy)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_not_filled_with_random_numbers(copy: Path, part: str) -> None:
    path = copy / f"{part}.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=f"lacks 1 of its tensors, {name} first"):
        load(copy)


def test_a_missing_modulation_layer_is_found_before_a_job_needs_it(copy: Path) -> None:
    path = copy / f"{TRANSFORMER}.safetensors"
    tensors = load_file(path)
    del tensors["norm_out.linear.bias"]
    save_file(tensors, path)
    with pytest.raises(ModelUnavailable, match=r"lacks 1 of its tensors, norm_out\.linear\.bias first"):
        load(copy)


@pytest.mark.parametrize("name", ["x_embedder.weight", "norm_out.linear.weight"])
def test_a_tensor_of_another_shape_is_named(copy: Path, name: str) -> None:
    path = copy / f"{TRANSFORMER}.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name][1:].contiguous()}, path)
    with pytest.raises(ModelUnavailable, match=rf"transformer .*{name} has shape .*reduxq model pull"):
        load(copy)


def test_a_transformer_in_several_files_is_the_same(copy: Path, weights: Weights) -> None:
    folder = copy / "base" / "transformer"
    stock = FluxTransformer2DModel.from_pretrained(folder)
    (copy / f"{TRANSFORMER}.safetensors").unlink()
    stock.save_pretrained(folder, max_shard_size="100KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    loaded = load(copy)
    ours, theirs = loaded.transformer.state_dict(), weights.transformer.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    wish = ((1000.0, 500.0), 3.0)
    assert torch.equal(loaded.modulation.table(*wish), weights.modulation.table(*wish))
    files[1].unlink()
    with pytest.raises(ModelUnavailable, match=rf"transformer .*{files[1].name}.*reduxq model pull"):
        load(copy)


def test_float8_is_in_the_blocks_alone(bundle: Path) -> None:
    eight, sixteen = (load(bundle, precision=precision).transformer for precision in ("float8", "bfloat16"))
    layers = {name: layer for name, layer in eight.named_modules() if isinstance(layer, Float8Linear)}
    linear = {name for name, layer in sixteen.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert linear - layers.keys() == {"x_embedder", "context_embedder", "proj_out"}
    assert {layer.weight.dtype for layer in layers.values()} == {torch.float8_e4m3fn}
    for name, layer in layers.items():
        rows = torch.randn(3, 5, layer.weight.shape[1], generator=torch.Generator().manual_seed(1)).bfloat16()
        made, exact = layer(rows), sixteen.get_submodule(name)(rows)
        assert made.shape == exact.shape
        assert difference(exact.float(), made.float()) < 0.1


def test_a_device_without_float8_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0")

    monkeypatch.setattr(float8, "scaled_mm", refuse)
    with pytest.raises(ModelUnavailable, match=r"cpu has no float8 products; mend REDUXQ_MODEL__PRECISION .*>= 9.0"):
        load(bundle, precision="float8")


@pytest.mark.slow
def test_loading_takes_little_more_memory_than_what_is_loaded(copy: Path) -> None:
    """In a process of its own, its peak beside the sum of the tensors that stay: 403 MB of 566 MB on disk.

    Not by ``ru_maxrss``, which would begin with what the tests themselves take.
    """
    folder = copy / "base" / "transformer"
    config = {**json.loads((folder / "config.json").read_text()), "attention_head_dim": 128, "num_attention_heads": 8}
    config |= {"axes_dims_rope": [16, 56, 56], "num_layers": 4, "num_single_layers": 8}
    shutil.rmtree(folder)
    FluxTransformer2DModel.from_config(config).bfloat16().save_pretrained(folder, max_shard_size="200MB")
    code = f"""
import re
from pathlib import Path
from worker.redux.weights import load_weights
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
weights = load_weights({str(copy / "base")!r}, {str(copy / "redux")!r}, precision="bfloat16", device="cpu")
print(peak() - before, sum(tensor.nbytes for tensor in weights.transformer.parameters()))
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    grown, kept = map(int, ended.stdout.split())
    assert kept > 350e6
    assert kept <= grown < kept + 80e6


@pytest.mark.parametrize(("part", "kind"), [("vae", AutoencoderKL), ("transformer", FluxTransformer2DModel)])
def test_a_pickle_is_never_opened(copy: Path, part: str, kind: Any) -> None:
    folder = copy / "base" / part
    kind.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=rf"{part} .*safetensors"):
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
    loaded = load_weights("acme/flux", "acme/redux", precision="float32", device="cpu")
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
        load_weights("acme/flux", "acme/redux", precision="float32", device="cpu")


def test_an_error_that_is_none_of_these_passes_through(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", broken)
    with pytest.raises(ZeroDivisionError):
        load(bundle)
