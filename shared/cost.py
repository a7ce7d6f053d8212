"""What a job costs. Source: DeepInfra's price list, $0.012 x (width / 1024) x (height / 1024) x (steps / 25)."""

from fractions import Fraction
from math import ceil
from typing import Final

from shared.sizes import Size

USD_PER_VARIATION: Final = Fraction("0.012")  #: 1024 x 1024 pixels, 25 steps


def price_in_usd(size: Size, *, num_outputs: int, num_inference_steps: int) -> Fraction:
    """Return a job's exact price in US dollars."""
    area = Fraction(size.width * size.height, 1024 * 1024)
    return USD_PER_VARIATION * area * Fraction(num_inference_steps, 25) * num_outputs


def in_credits(usd: Fraction, credits_per_usd: int) -> int:
    """Return a price in whole credits, rounded up."""
    return ceil(usd * credits_per_usd)
