"""The model's components, loaded from folders or from the hub."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from huggingface_hub import snapshot_download
from torch import nn
from transformers import SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

from shared.errors import ModelUnavailable
from worker.redux.float8 import Float8Linear, use_float8
from worker.redux.hub import FAILURES, unavailable
from worker.redux.modulation import Modulation
from worker.redux.shards import Shards

#: Key in the transformer's config.json that says that nobody trained these weights. diffusers carries keys that
#: start with an underscore along without a word.
UNTRAINED: Final = "_reduxq_untrained"

_READERS: Final = 4  #: tensors on their way from disk to the device at a time; in FLUX.1 the largest takes 113 MB


@dataclass(frozen=True)
class Weights:
    """Everything that is loaded once for the life of a worker; no text encoder among it."""

    scheduler: FlowMatchEulerDiscreteScheduler
    image_processor: SiglipImageProcessorPil
    image_embedder: ReduxImageEncoder
    image_encoder: SiglipVisionModel
    vae: AutoencoderKL
    transformer: FluxTransformer2DModel  #: without the modulation layers
    modulation: Modulation
    dtype: torch.dtype
    device: torch.device

    @property
    def trained(self) -> bool:
        """False for the tiny random bundle of ``worker.redux.tiny``."""
        return not self.transformer.config.get(UNTRAINED, False)


def load_weights(base: str, redux: str, *, precision: str, device: str) -> Weights:
    """Load all components onto ``device``, ready for inference.

    ``base`` and ``redux`` are folders or hub ids, laid out as black-forest-labs' FLUX.1-dev and FLUX.1-Redux-dev;
    ``device`` is torch's name, ``precision`` that of a dtype, or ``float8``, which is bfloat16 but for some products.

    Raises:
        ModelUnavailable: If anything is missing, broken, refused or does not fit; the message says what to do.
    """
    eight_bits = precision == "float8"
    dtype, target = getattr(torch, "bfloat16" if eight_bits else precision), _device(device)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    parts = {  # the small parts first, so that what is missing shows at once
        "scheduler": load_part(FlowMatchEulerDiscreteScheduler, base, "scheduler"),
        "image_processor": load_part(SiglipImageProcessorPil, redux, "feature_extractor"),
        "image_embedder": load_network(ReduxImageEncoder, redux, "image_embedder", dtype, target),
        "image_encoder": load_network(SiglipVisionModel, redux, "image_encoder", dtype, target),
        "vae": load_network(AutoencoderKL, base, "vae", dtype, target),
    }
    with _refusing("transformer", base, target):
        folder = _folder(base, "transformer")
        shards = Shards(folder)
        transformer = _blank_transformer(base, folder, shards)
        modulation = Modulation(transformer, shards, dtype, target)
        if eight_bits:
            use_float8(transformer, target)
        _fill(transformer, shards, dtype, target)
    weights = Weights(**parts, transformer=transformer, modulation=modulation, dtype=dtype, device=target)
    _check_fit(weights, base, redux)
    return weights


def load_network(kind: Any, place: str, part: str, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """Return the network ready for inference; as :func:`load_part` otherwise.

    Refused is one that lacks a tensor, for the loaders would fill it with random numbers, and one that is pickled,
    for a pickle can run any code.
    """
    safely = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    network, found = load_part(kind, place, part, **safely, **options)
    _require_all(found["missing_keys"], part, place)
    with _refusing(part, place, device):
        return network.eval().requires_grad_(requires_grad=False).to(device)


def load_part(kind: Any, place: str, part: str, **options: Any) -> Any:
    """Return what is in the folder of a part's name, unless the options name another ``subfolder``.

    Raises:
        ModelUnavailable: If it cannot be had; the message names the part.
    """
    with _refusing(part, place):
        return kind.from_pretrained(place, **{"subfolder": part, **options})


@contextmanager
def _refusing(part: str, place: str, device: torch.device | None = None) -> Iterator[None]:
    """Tell what is wrong with a part while it is loaded.

    Raises:
        ModelUnavailable: If anything is that has to do with the files, the hub or the device.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelUnavailable(f"{device} has too little memory for {part} at {place}") from error
    except (*FAILURES, ValueError, RuntimeError) as error:  # the last two: tensors of the wrong shape
        raise unavailable(error, wanted=part, place=place) from error


def _require_all(absent: Collection[str], part: str, place: str) -> None:
    if absent:
        raise ModelUnavailable(
            f"{part} at {place} lacks {len(absent)} of its tensors, {min(absent)} first; run `reduxq model pull`"
        )


def _folder(place: str, part: str) -> Path:
    """Return where a part's files are, after fetching what is missing of them if ``place`` is a hub id."""
    if Path(place).is_dir():
        return Path(place, part)
    return Path(snapshot_download(place, allow_patterns=[f"{part}/*.json", f"{part}/*.safetensors"]), part)


def _blank_transformer(place: str, folder: Path, shards: Shards) -> FluxTransformer2DModel:
    """Return the transformer without a number in it, all of which the shards have.

    Raises:
        ModelUnavailable: If they lack a tensor.
        ValueError: If one has another shape.
    """
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder))
    wanted = {name: tuple(tensor.shape) for name, tensor in transformer.state_dict().items()}
    _require_all(wanted.keys() - set(shards.names), "transformer", place)
    for name, shape in wanted.items():
        if shards.shape(name) != shape:
            raise ValueError(f"{name} has shape {shards.shape(name)}, expected is {shape}")
    return transformer.eval()


def _fill(transformer: FluxTransformer2DModel, shards: Shards, dtype: torch.dtype, device: torch.device) -> None:
    """Read tensor after tensor to where it stays, so that the host never holds more than some."""
    wanted = {name for name, _ in transformer.named_parameters()}

    def fill(name: str) -> None:
        path, _, leaf = name.rpartition(".")
        layer, tensor = transformer.get_submodule(path), shards.read(name).to(device, dtype)
        if isinstance(layer, Float8Linear) and leaf == "weight":
            layer.quantise(tensor)
        else:
            setattr(layer, leaf, nn.Parameter(tensor, requires_grad=False))

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(fill, [name for name in shards.names if name in wanted]))  # raises what one of them raised


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelUnavailable(f"device {name!r} cannot be used; mend REDUXQ_MODEL__DEVICE ({reason})") from error
    return torch.device(name)


def _check_fit(weights: Weights, base: str, redux: str) -> None:
    given = (weights.image_encoder.config.hidden_size, weights.image_embedder.config.txt_in_features)
    taken = (weights.image_embedder.config.redux_dim, weights.transformer.config.joint_attention_dim)
    if given != taken:
        raise ModelUnavailable(
            f"{redux} does not fit {base}: its widths (SigLIP, context) are {given}, expected are {taken}"
        )
