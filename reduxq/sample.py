"""A sunset over hills and a lake, drawn rather than photographed: a sample that owes nothing to anybody."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Stops = Sequence[tuple[int, Color]]  # row, color

WIDTH: Final = 1024
HEIGHT: Final = 768
SHORE: Final = 500  #: row where the water begins
SUN: Final = (655, 372)  #: center, pixels
SMOOTH: Final = 3  #: shapes are drawn this much larger, so that their edges come out smooth
NEAR: Final[Color] = (22, 20, 44)
SKY: Final[Stops] = (
    (0, (38, 44, 92)),
    (180, (112, 82, 138)),
    (300, (226, 128, 122)),
    (400, (254, 190, 118)),
    (SHORE, (255, 226, 168)),
)
#: Radius and softness in pixels, color and strength of the light around the sun, then of the sun itself.
HALOS: Final = ((260, 150, (255, 170, 90), 130), (110, 60, (255, 220, 140), 190), (46, 1, (255, 248, 220), 255))
#: Top row, height in pixels, phase, colors of crest and foot, from far to near: the farther, the paler.
HILLS: Final = (
    (398, 26, 0.4, (196, 122, 140), (250, 190, 150)),
    (424, 34, 2.1, (142, 90, 132), (222, 146, 138)),
    (452, 28, 4.0, (92, 66, 116), (160, 100, 128)),
    (478, 20, 5.3, (52, 44, 88), (96, 68, 112)),
)
#: Column, foot and height of each pine on the near bank.
PINES: Final = ((58, 752, 250), (120, 768, 330), (182, 760, 210), (236, 768, 150), (952, 768, 290), (1004, 764, 200))


def draw_sample() -> Image.Image:
    """Return the picture, the same at every call."""
    picture = _gradient(SKY, HEIGHT)
    _add_sun(picture)
    _add_clouds(picture)
    _add_hills(picture)
    _add_lake(picture)
    _add_bank(picture)
    return picture


def _add_sun(picture: Image.Image) -> None:
    for radius, softness, color, strength in HALOS:
        light = Image.new("L", picture.size)
        ImageDraw.Draw(light).circle(SUN, radius, fill=strength)
        picture.paste(color, mask=light.filter(ImageFilter.GaussianBlur(softness)))


def _add_clouds(picture: Image.Image) -> None:
    clouds = Image.new("L", picture.size)
    for index in range(26):
        x, y = (index * 397) % 1150 - 60, 60 + (index * 211) % 250
        length, thickness = 90 + (index * 67) % 190, 3 + (index * 5) % 7
        box = (x - length, y - thickness, x + length, y + thickness)
        ImageDraw.Draw(clouds).ellipse(box, fill=60 + (index * 37) % 90)
    picture.paste((255, 196, 160), mask=clouds.filter(ImageFilter.GaussianBlur(5)))


def _add_hills(picture: Image.Image) -> None:
    octaves = ((1.0, 151, 1), (0.5, 67, 2), (0.2, 23, 3))  # strength, wavelength / 2 pi in pixels, phases apart
    for top, height, phase, crest, foot in HILLS:
        ridge = [
            (x, top + height * sum(part * math.sin(x / length + turn * phase) for part, length, turn in octaves))
            for x in range(0, WIDTH + 1, 4)
        ]
        colors = _gradient(((0, crest), (top - height, crest), (SHORE + 10, foot)), HEIGHT)
        picture.paste(colors, mask=_shape([*ridge, (WIDTH, SHORE), (0, SHORE)]))


def _add_lake(picture: Image.Image) -> None:
    depth = HEIGHT - SHORE
    mirror = picture.crop((0, SHORE - depth, WIDTH, SHORE)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    tint = _gradient(((0, (120, 84, 120)), (depth, (26, 28, 66))), depth)
    water = Image.blend(mirror.filter(ImageFilter.GaussianBlur(2)), tint, 0.38)
    picture.paste(water, (0, SHORE))
    for row in range(depth):
        ripple = round((2 + row / 22) * math.sin(row * row / 900 + row / 2.2))
        picture.paste(water.crop((0, row, WIDTH, row + 1)), (ripple, SHORE + row))


def _add_bank(picture: Image.Image) -> None:
    bank = [(x, 738 - 34 * math.cos(x / 512 * math.pi) + 5 * math.sin(x / 31)) for x in range(0, WIDTH + 1, 4)]
    picture.paste(NEAR, mask=_shape([*bank, (WIDTH, HEIGHT), (0, HEIGHT)]))
    for x, foot, height in PINES:
        for tier in range(6):
            half, tip = height * (0.05 + 0.028 * tier), foot - height * (1 - tier * 0.14)
            hem = tip + height * 0.24
            picture.paste(NEAR, mask=_shape([(x, tip), (x + half, hem), (x - half, hem)]))


def _gradient(stops: Stops, height: int) -> Image.Image:
    column = Image.new("RGB", (1, height), stops[-1][1])
    for (top, first), (bottom, last) in pairwise(stops):
        for row in range(top, bottom):
            part = (row - top) / (bottom - top)
            column.putpixel((0, row), tuple(round(a + (b - a) * part) for a, b in zip(first, last, strict=True)))
    return column.resize((WIDTH, height))


def _shape(corners: Sequence[tuple[float, float]]) -> Image.Image:
    large = Image.new("L", (WIDTH * SMOOTH, HEIGHT * SMOOTH))
    ImageDraw.Draw(large).polygon([(x * SMOOTH, y * SMOOTH) for x, y in corners], fill=255)
    return large.reduce(SMOOTH)
