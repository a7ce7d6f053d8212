import pytest
from PIL import Image, ImageChops

from reduxq.local.contact_sheet import GAP, LABEL, MARGIN, PAPER, contact_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2)])
def test_variations_stand_in_a_grid_right_of_the_source(count: int, columns: int, rows: int) -> None:
    variations = {f"seed {seed}": Image.new("RGB", (576, 448), BLUE) for seed in range(count)}
    sheet = contact_sheet(Image.new("RGB", (1024, 768), RED), variations)
    blue = _box(sheet, BLUE)
    cell = (400, 311)  # 576 x 448 within 400 x 400
    assert sheet.width - blue[2] == MARGIN
    assert blue[2] - blue[0] == columns * (cell[0] + GAP) - GAP
    assert blue[3] - blue[1] == rows * (cell[1] + LABEL + GAP) - GAP - LABEL
    red = _box(sheet, RED)
    assert red[0] == MARGIN
    assert red[2] + 2 * GAP == blue[0]
    assert red[3] + LABEL + MARGIN <= sheet.height


@pytest.mark.parametrize("size", [(3000, 100), (100, 3000), (8, 8)])
def test_a_source_of_any_shape_fits(size: tuple[int, int]) -> None:
    sheet = contact_sheet(Image.new("RGB", size, RED), {"seed 1": Image.new("RGB", (768, 320), BLUE)})
    red, blue = _box(sheet, RED), _box(sheet, BLUE)
    assert red[0] == MARGIN
    assert red[2] < blue[0]
    assert red[3] <= sheet.height - MARGIN


def test_every_picture_has_its_label_below() -> None:
    variations = {f"seed {seed}": Image.new("RGB", (64, 64), BLUE) for seed in range(2)}
    sheet = contact_sheet(Image.new("RGB", (64, 64), RED), variations)
    left, _, _, bottom = _box(sheet, BLUE)
    under = sheet.crop((left, bottom, sheet.width - MARGIN, bottom + LABEL))
    assert under.getcolors(maxcolors=1) is None
    assert sheet.getpixel((2, 2)) == PAPER


def _box(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return the smallest box around everything of one color."""
    mask = ImageChops.difference(sheet, Image.new("RGB", sheet.size, color)).convert("L").point([255] + [0] * 255)
    found = mask.getbbox()
    assert found is not None
    return found
