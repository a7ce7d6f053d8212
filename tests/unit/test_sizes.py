import pytest

from shared.cost import in_credits, price_in_usd
from shared.sizes import AspectRatio, Megapixels, Size, size_of


@pytest.mark.parametrize("ratio", AspectRatio)
@pytest.mark.parametrize("megapixels", Megapixels)
def test_every_size_fits_the_model_and_its_name(ratio: AspectRatio, megapixels: Megapixels) -> None:
    width, height = size_of(ratio, megapixels)
    assert width % 16 == height % 16 == 0
    across, down = map(int, ratio.split(":"))
    assert width / height == pytest.approx(across / down, rel=0.05)
    assert width * height == pytest.approx(float(megapixels) * 1024 * 1024, rel=0.1)


def test_four_to_three_is_as_published() -> None:
    assert size_of(AspectRatio.STANDARD, Megapixels.ONE) == Size(1152, 896)
    assert size_of(AspectRatio.STANDARD, Megapixels.QUARTER) == Size(576, 448)


@pytest.mark.parametrize(
    ("size", "num_outputs", "steps", "price"),
    [
        (Size(1024, 1024), 1, 25, 12_000),
        (Size(1024, 1024), 4, 50, 96_000),
        (Size(576, 448), 3, 1, 355),  # 354.375
    ],
)
def test_the_price_is_deepinfras_rounded_up_once_for_the_job(
    size: Size, num_outputs: int, steps: int, price: int
) -> None:
    usd = price_in_usd(size, num_outputs=num_outputs, num_inference_steps=steps)
    assert in_credits(usd, 1_000_000) == price
