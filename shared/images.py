"""Pictures as files: which types are taken, what they must be, how they are read."""

import struct
from enum import Enum
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO, Final, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import BrokenImage, UnsupportedImage

Picture = Image.Image
Image.MAX_IMAGE_PIXELS = None  # the settings' limit holds; Pillow warns at one of its own, and ends at twice that
#: Pixels. The model looks at 384 x 384, so a JPEG of much more is decoded at a fraction of its size.
ENOUGH: Final = (1024, 1024)


class Source(NamedTuple):
    """A picture to make variations of."""

    picture: Picture
    digest: str  #: SHA-256 of its file, hexadecimal


class ImageType(Enum):
    """File types that are taken, under Pillow's names."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    WEBP = "image/webp"

    @property
    def extension(self) -> str:
        return "jpg" if self is ImageType.JPEG else self.name.lower()


FORMATS: Final = tuple(known.name for known in ImageType)
#: How other files begin that people send, to say what came.
STRANGERS: Final = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<?xml": "an XML file",
    b"<": "an HTML or XML file",
    b"{": "a JSON file",
    b"PK": "a ZIP archive",
}
#: ISO media files name their kind after four bytes of length.
ISO_BRANDS: Final = {b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC", b"avif": "an AVIF"}

#: What Pillow raises for bytes that it cannot decode.
DECODING_ERRORS: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def inspect(file: BinaryIO, *, max_pixels: int) -> ImageType:
    """Return what type of image a file is, having decoded it whole.

    Raises:
        UnsupportedImage: If it is none of the types that are taken.
        BrokenImage: If it has too many pixels, is truncated or cannot be decoded.
    """
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if not head:
        raise BrokenImage("the image is empty (0 bytes); send a PNG, JPEG or WebP image")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BrokenImage(
                    f"the image has {image.width} x {image.height} = {image.width * image.height} pixels; "
                    f"at most {max_pixels} are allowed"
                )
            image.load()
            # Many cameras' photographs are JPEGs with a second picture behind the first.
            return ImageType.JPEG if image.format == "MPO" else ImageType[str(image.format)]
    except UnidentifiedImageError as error:
        raise UnsupportedImage(f"the image is {_looks_like(head)}; allowed are {', '.join(FORMATS)}") from error
    except DECODING_ERRORS as error:
        raise BrokenImage(f"the image is truncated or damaged: {error}") from error


def read_source(data: bytes) -> Source:
    """Return the source that a file is.

    Raises:
        BrokenImage: If it cannot be decoded.
    """
    return Source(_as_seen(data), sha256(data).hexdigest())


def _as_seen(data: bytes) -> Picture:
    """Return the picture that a person sees: upright, in RGB, transparency on white; a large JPEG made smaller.

    Raises:
        BrokenImage: If it cannot be decoded.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            image.draft(None, ENOUGH)
            upright = _upright(image)
            if upright.has_transparency_data:
                clear = upright.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
            if upright.mode.startswith("I"):  # 16 bits a channel, which convert() would cut off at 255
                upright = upright.convert("F").point(lambda level: level * (255 / 65535)).convert("L")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise BrokenImage("the image is of no known type") from error
    except DECODING_ERRORS as error:
        raise BrokenImage(f"the image cannot be decoded: {error}") from error


def _upright(image: Picture) -> Picture:
    """Return the picture turned as its EXIF says; damaged EXIF says nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except DECODING_ERRORS:
        return image


def _looks_like(head: bytes) -> str:
    if head[4:8] == b"ftyp" and head[8:12] in ISO_BRANDS:
        return ISO_BRANDS[head[8:12]]
    for start, name in STRANGERS.items():
        if head.lstrip().startswith(start):
            return name
    return f"of an unknown type (it begins with {head[:8].hex(' ')})"
