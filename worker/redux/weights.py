"""The model's components, loaded from folders or from the hub."""

from dataclasses import dataclass
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

from shared.errors import ModelUnavailable
from worker.redux.hub import FAILURES, unavailable

#: Key in the transformer's config.json that says that nobody trained these weights. diffusers carries keys that
#: start with an underscore along without a word.
UNTRAINED: Final = "_reduxq_untrained"


@dataclass(frozen=True)
class Weights:
    """Everything that is loaded once for the life of a worker; no text encoder among it."""

    scheduler: FlowMatchEulerDiscreteScheduler
    image_processor: SiglipImageProcessorPil
    image_embedder: ReduxImageEncoder
    image_encoder: SiglipVisionModel
    vae: AutoencoderKL
    transformer: FluxTransformer2DModel
    dtype: torch.dtype
    device: torch.device

    @property
    def trained(self) -> bool:
        """False for the tiny random bundle of ``worker.redux.tiny``."""
        return not self.transformer.config.get(UNTRAINED, False)


def load_weights(base: str, redux: str, *, dtype: str, device: str) -> Weights:
    """Load all components onto ``device``, ready for inference.

    ``base`` and ``redux`` are folders or hub ids, laid out as black-forest-labs' FLUX.1-dev and FLUX.1-Redux-dev;
    ``dtype`` and ``device`` are torch's names.

    Raises:
        ModelUnavailable: If anything is missing, broken, refused or does not fit; the message says what to do.
    """
    number, target = getattr(torch, dtype), _device(device)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    weights = Weights(  # the small parts first, so that what is missing shows at once
        scheduler=load_part(FlowMatchEulerDiscreteScheduler, base, "scheduler"),
        image_processor=load_part(SiglipImageProcessorPil, redux, "feature_extractor"),
        image_embedder=load_network(ReduxImageEncoder, redux, "image_embedder", number, target),
        image_encoder=load_network(SiglipVisionModel, redux, "image_encoder", number, target),
        vae=load_network(AutoencoderKL, base, "vae", number, target),
        transformer=load_network(FluxTransformer2DModel, base, "transformer", number, target),
        dtype=number,
        device=target,
    )
    _check_fit(weights, base, redux)
    return weights


def load_network(kind: Any, place: str, part: str, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """Return the network ready for inference; as :func:`load_part` otherwise.

    Refused is one that lacks a tensor, for the loaders would fill it with random numbers, and one that is pickled,
    for a pickle can run any code.
    """
    safely = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    network, found = load_part(kind, place, part, **safely, **options)
    absent = sorted(found["missing_keys"])
    if absent:
        raise ModelUnavailable(
            f"{part} at {place} lacks {len(absent)} of its tensors, {absent[0]} first; run `reduxq model pull`"
        )
    try:
        return network.eval().requires_grad_(requires_grad=False).to(device)
    except torch.OutOfMemoryError as error:
        raise ModelUnavailable(f"{device} has too little memory for {part} at {place}") from error


def load_part(kind: Any, place: str, part: str, **options: Any) -> Any:
    """Return what is in the folder of a part's name, unless the options name another ``subfolder``.

    Raises:
        ModelUnavailable: If it cannot be had; the message names the part.
    """
    try:
        return kind.from_pretrained(place, **{"subfolder": part, **options})
    except (*FAILURES, ValueError, RuntimeError) as error:  # the last two: tensors of the wrong shape
        raise unavailable(error, wanted=part, place=place) from error


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
