"""What a job costs. Source: DeepInfra's price list, $0.012 x (width / 1024) x (height / 1024) x (steps / 25)."""

from fractions import Fraction
from math import ceil
from typing import Final

from shared.sizes import Size

CREDITS_PER_USD: Final = 1_000_000  #: one credit is 1e-6 USD
USD_PER_VARIATION: Final = Fraction("0.012")  #: 1024 x 1024 pixels, 25 steps


def price_in_credits(size: Size, *, num_outputs: int, num_inference_steps: int) -> int:
    """Return a job's price in whole credits, rounded up once for the whole job."""
    area = Fraction(size.width * size.height, 1024 * 1024)
    return ceil(USD_PER_VARIATION * area * Fraction(num_inference_steps, 25) * num_outputs * CREDITS_PER_USD)
