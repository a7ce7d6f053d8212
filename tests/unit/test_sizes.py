import pytest

from shared.cost import price_in_credits
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


def test_the_price_is_deepinfras_rounded_up_once_for_the_job() -> None:
    assert price_in_credits(Size(1024, 1024), num_outputs=1, num_inference_steps=25) == 12_000
    assert price_in_credits(Size(1024, 1024), num_outputs=4, num_inference_steps=50) == 96_000
    assert price_in_credits(Size(576, 448), num_outputs=3, num_inference_steps=1) == 355  # 354.375
