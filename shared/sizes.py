"""Width x height of every aspect ratio: a table, not arithmetic. Source: replicate/cog-flux."""

from enum import StrEnum
from typing import Final, NamedTuple

TOKEN_PIXELS: Final = 16  #: along one side of a token: the VAE's factor of 8 times the patch's 2


class Size(NamedTuple):
    """A picture's size in pixels; both sides are multiples of 16."""

    width: int
    height: int

    @property
    def tokens(self) -> int:
        """How many the transformer has for a picture of this size."""
        return self.width * self.height // TOKEN_PIXELS**2


class AspectRatio(StrEnum):
    """Width to height, as clients write it."""

    SQUARE = "1:1"
    WIDESCREEN = "16:9"
    ULTRA_WIDE = "21:9"
    PHOTO = "3:2"
    PHOTO_PORTRAIT = "2:3"
    SOCIAL_PORTRAIT = "4:5"
    SOCIAL = "5:4"
    STANDARD_PORTRAIT = "3:4"
    STANDARD = "4:3"
    VERTICAL = "9:16"
    ULTRA_TALL = "9:21"


class Megapixels(StrEnum):
    """About how many million pixels a variation has."""

    ONE = "1"
    QUARTER = "0.25"


ONE_MEGAPIXEL: Final = {
    AspectRatio.SQUARE: Size(1024, 1024),
    AspectRatio.WIDESCREEN: Size(1344, 768),
    AspectRatio.ULTRA_WIDE: Size(1536, 640),
    AspectRatio.PHOTO: Size(1216, 832),
    AspectRatio.PHOTO_PORTRAIT: Size(832, 1216),
    AspectRatio.SOCIAL_PORTRAIT: Size(896, 1088),
    AspectRatio.SOCIAL: Size(1088, 896),
    AspectRatio.STANDARD_PORTRAIT: Size(896, 1152),
    AspectRatio.STANDARD: Size(1152, 896),
    AspectRatio.VERTICAL: Size(768, 1344),
    AspectRatio.ULTRA_TALL: Size(640, 1536),
}


def size_of(aspect_ratio: AspectRatio, megapixels: Megapixels) -> Size:
    """Return the size in pixels; a quarter of a megapixel halves each side."""
    full = ONE_MEGAPIXEL[aspect_ratio]
    return full if megapixels is Megapixels.ONE else Size(full.width // 2, full.height // 2)
