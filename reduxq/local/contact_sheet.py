"""One picture that shows a source beside its variations."""

import math
from collections.abc import Mapping
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

CELL: Final = 400  #: longest side of a variation, pixels
MARGIN: Final = 32  #: around everything, pixels
GAP: Final = 20  #: between pictures, pixels
LABEL: Final = 30  #: height of a line of text under each picture, pixels
TEXT: Final = 17  #: size of the letters, pixels
PAPER: Final = (250, 249, 246)
INK: Final = (64, 62, 70)


def contact_sheet(source: Image.Image, variations: Mapping[str, Image.Image]) -> Image.Image:
    """Return the source on the left and the variations, each over its label, in a grid on the right."""
    width, height = ImageOps.contain(next(iter(variations.values())), (CELL, CELL)).size
    columns = math.ceil(math.sqrt(len(variations)))
    rows = math.ceil(len(variations) / columns)
    grid = (columns * (width + GAP) - GAP, rows * (height + LABEL + GAP) - GAP)
    left = ImageOps.contain(source, (grid[0], grid[1] - LABEL))
    start = MARGIN + left.width + 2 * GAP
    sheet = Image.new("RGB", (start + grid[0] + MARGIN, grid[1] + 2 * MARGIN), PAPER)
    _place(sheet, left, "source", (MARGIN, (sheet.height - left.height - LABEL) // 2))
    for index, (label, variation) in enumerate(variations.items()):
        row, column = divmod(index, columns)
        corner = (start + column * (width + GAP), MARGIN + row * (height + LABEL + GAP))
        _place(sheet, variation.resize((width, height), Image.Resampling.LANCZOS), label, corner)
    return sheet


def _place(sheet: Image.Image, picture: Image.Image, label: str, corner: tuple[int, int]) -> None:
    sheet.paste(picture.convert("RGB"), corner)
    foot = (corner[0] + picture.width / 2, corner[1] + picture.height + LABEL / 2 + 2)
    ImageDraw.Draw(sheet).text(foot, label, INK, ImageFont.load_default(TEXT), anchor="mm")
