"""What a job costs, in money and in work.

Sources: DeepInfra's price list, $0.012 x (width / 1024) x (height / 1024) x (steps / 25); for the work the layers of
FLUX.1's transformer, counted with torch's FlopCounterMode.
"""

from fractions import Fraction
from math import ceil
from typing import Final

from shared.sizes import Size

USD_PER_VARIATION: Final = Fraction("0.012")  #: 1024 x 1024 pixels, 25 steps

BLOCKS: Final = 57  #: 19 double and 38 single ones, alike in work
WIDTH: Final = 3072  #: of the transformer
CONTEXT: Final = 1241  #: tokens beside the image's: 512 of an empty text, 729 of the source
DECODE: Final = 10.5e12  #: floating-point operations of the VAE for 1024 x 1024 pixels


def price_in_usd(size: Size, *, num_outputs: int, num_inference_steps: int) -> Fraction:
    """Return a job's exact price in US dollars."""
    work = num_outputs * num_inference_steps * size.width * size.height
    return USD_PER_VARIATION * Fraction(work, 25 * 1024 * 1024)


def in_credits(usd: Fraction, credits_per_usd: int) -> int:
    """Return a price in whole credits, rounded up."""
    return ceil(usd * credits_per_usd)


def work_in_teraflops(size: Size, *, num_outputs: int, num_inference_steps: int) -> int:
    """Return how many 1e12 floating-point operations a job takes, known before it starts."""
    pixels = size.width * size.height
    tokens = pixels // 256 + CONTEXT
    step = BLOCKS * (24 * WIDTH**2 * tokens + 4 * WIDTH * tokens**2)
    return ceil(num_outputs * (num_inference_steps * step + DECODE * pixels / 1024**2) / 1e12)
