"""What a job costs, in money and in work.

Sources: DeepInfra's price list, $0.012 x (width / 1024) x (height / 1024) x (steps / 25); for the work the shapes of
FLUX.1's transformer and VAE. The tests compare it with what torch's FlopCounterMode counts in diffusers' modules.
"""

from fractions import Fraction
from functools import cache
from math import ceil
from typing import Final

from shared.sizes import Size

USD_PER_VARIATION: Final = Fraction("0.012")  #: of so many pixels and steps
PRICED_PIXELS: Final = 1024 * 1024
PRICED_STEPS: Final = 25

BLOCKS: Final = 57  #: 19 double and 38 single ones, alike in work
WIDTH: Final = 3072  #: of the transformer
CONTEXT: Final = 730  #: tokens beside the image's: 729 of the source, 1 that stands for the 512 of an empty text
PIXEL: Final = 9_462_784  #: floating-point operations of the VAE's convolutions for one pixel
VAE_WIDTH: Final = 512  #: of its one attention, over 8 x 8 pixels


@cache
def price_in_usd(size: Size, *, num_outputs: int, num_inference_steps: int) -> Fraction:
    """Return a job's exact price in US dollars."""
    work = num_outputs * num_inference_steps * size.width * size.height
    return USD_PER_VARIATION * Fraction(work, PRICED_STEPS * PRICED_PIXELS)


def in_credits(usd: Fraction, credits_per_usd: int) -> int:
    """Return a price in whole credits, rounded up."""
    return ceil(usd * credits_per_usd)


def step_teraflops(size: Size) -> float:
    """Return how many 1e12 floating-point operations one denoising step of one variation takes.

    Counted are the products in the blocks, 24 d**2 for a token and 4 d for a pair of them. Left out are the layers
    around the blocks and the modulation (0.1 % of what FlopCounterMode counts at 0.25 megapixels, 0.04 % at 1), what is
    done number by number, and the 511 more keys that attention reads where it expands the null token (2 - 3 %). Counted
    too is what the last block leaves out of the context (0.2 % of a step at 1 megapixel, 0.6 % at 0.25).
    """
    tokens = size.tokens + CONTEXT
    return BLOCKS * (24 * WIDTH**2 * tokens + 4 * WIDTH * tokens**2) / 1e12


def decode_teraflops(size: Size) -> float:
    """Return how many 1e12 floating-point operations the VAE takes to make one picture of its latents."""
    pixels = size.width * size.height
    return (PIXEL * pixels + 4 * VAE_WIDTH * (pixels / 64) ** 2) / 1e12


@cache
def work_in_teraflops(size: Size, *, num_outputs: int, num_inference_steps: int) -> int:
    """Return how many 1e12 floating-point operations a job takes, known before it starts."""
    return ceil(num_outputs * (num_inference_steps * step_teraflops(size) + decode_teraflops(size)))
