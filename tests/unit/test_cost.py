"""The cost model against the operations that torch counts in FLUX.1's real shapes, on a device without memory."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from shared.cost import CONTEXT, decode_teraflops, step_teraflops, work_in_teraflops
from shared.settings import JobsSettings
from shared.sizes import ONE_MEGAPIXEL, AspectRatio, Megapixels, Size, size_of
from tests.bench.gpu_variants import Ours
from worker.redux.attention import Way, collapse
from worker.redux.denoise import _velocity
from worker.redux.modulation import Modulation
from worker.redux.shards import Shards

SIZES = [
    size_of(AspectRatio.SQUARE, Megapixels.QUARTER),
    size_of(AspectRatio.PHOTO, Megapixels.QUARTER),
    size_of(AspectRatio.ULTRA_TALL, Megapixels.ONE),
    size_of(AspectRatio.SQUARE, Megapixels.ONE),
]


@pytest.fixture(scope="module")
def transformer() -> Any:
    """FLUX.1 [dev]'s, of diffusers' default shapes: 11.9 billion parameters."""
    with torch.device("meta"):
        made = FluxTransformer2DModel(guidance_embeds=True)
    assert sum(parameter.numel() for parameter in made.parameters()) == 11_901_408_320
    return made


@pytest.fixture(scope="module")
def vae() -> Any:
    """FLUX.1's, of the shapes in its published configuration."""
    with torch.device("meta"):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )


def counted(call: Callable[[], object]) -> float:
    """How many 1e12 floating-point operations torch counts in it."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e12


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_step_costs_what_torch_counts_in_the_transformer(transformer: Any, size: Size) -> None:
    tokens = size.width * size.height // 256
    step = counted(
        lambda: transformer(
            hidden_states=torch.empty(1, tokens, 64),
            encoder_hidden_states=torch.empty(1, CONTEXT, 4096),
            pooled_projections=torch.empty(1, 768),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            img_ids=torch.empty(tokens, 3),
            txt_ids=torch.empty(CONTEXT, 3),
        )
    )
    assert 0.998 * step < step_teraflops(size) < step


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("attention", "least", "most"), [("bias", 0.993, 1), ("expanded", 1.018, 1.021)])
def test_a_step_as_it_ships_costs_the_same_but_for_what_is_said_to_be_left_out(
    size: Size, attention: Way, least: float, most: float
) -> None:
    like, absent = torch.empty(0, device="meta"), cast("Shards", None)
    with like.device:
        network = FluxTransformer2DModel(guidance_embeds=True)
        given = [torch.empty(1, rows, width) for rows, width in ((size.tokens, 64), (CONTEXT, 3072), (1, 344 * 3072))]
        rotary = torch.empty(2, CONTEXT + size.tokens, 128)
    collapse(network, attention, like)
    weights: Any = Ours(network, Modulation(network, absent, like.dtype, like.device), like.dtype)
    step = counted(lambda: _velocity(weights, given[0], given[1], given[2][0], rotary))
    assert least < step / step_teraflops(size) < most


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoding_costs_what_torch_counts_in_the_vae(vae: Any, size: Size) -> None:
    decode = counted(lambda: vae.decode(torch.empty(1, 16, size.height // 8, size.width // 8)))
    assert decode_teraflops(size) == pytest.approx(decode, rel=1e-9)


def test_a_jobs_work_is_its_steps_with_its_decoding_in_whole_teraflops() -> None:
    size = ONE_MEGAPIXEL[AspectRatio.SQUARE]
    exactly = 4 * (28 * step_teraflops(size) + decode_teraflops(size))
    assert exactly <= work_in_teraflops(size, num_outputs=4, num_inference_steps=28) < exactly + 1


def test_the_settings_tell_truly_which_jobs_are_previews() -> None:
    def work(steps: int) -> int:
        return work_in_teraflops(ONE_MEGAPIXEL[AspectRatio.SQUARE], num_outputs=1, num_inference_steps=steps)

    limit = JobsSettings.model_fields["preview_teraflops"]
    assert f"six steps of one variation with 1 megapixel are {work(6)}" in str(limit.description)
    assert work(6) <= limit.default < work(7)
