"""Files that nobody means well with: mutated pictures, bombs, polyglots, other types. The same ones in every run."""

import gzip
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Final
from zipfile import ZipFile

from PIL import Image

from tests.samples import encoded, picture

MB: Final = 1_000_000
PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n"
HTML: Final = b"<!doctype html><script>alert(document.cookie)</script>"
SVG: Final = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
#: How files of other types begin, and of ours.
HEADS: Final = (
    *(
        b"GIF89a\x40\0\x40\0",
        b"BM\x36\x30\0\0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0",
    ),
    *(SVG, SVG[21:], HTML, b'{"imageUrl": "x"}', b"[" * 1000, b"PK\x03\x04", b"\x1f\x8b\x08", b"\x7fELF\x02\x01\x01"),
    *(b"\0\0\0\x18ftypheic", b"\0\0\0\x1cftypavif", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xffO\xffQ", b"8BPS\0\1", b"qoif"),
    *(
        b"P6\n60000 60000\n255\n",
        b"\0\0\1\0\1\0",
        b"DDS \x7c\0\0\0",
        b"#!/bin/sh\n",
        b"RIFF\0\0\0\0WAVE",
        b"FORM\0\0\0\0ILBM",
    ),
    *(PNG_HEAD, b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\xff\xd8\xff\xe1\xff\xffExif\0\0", b"RIFF\xff\xff\xff\xffWEBPVP8X"),
)

Mutation = Callable[[random.Random, bytes], bytes]


@cache
def samples() -> tuple[bytes, ...]:
    """Good pictures, each of another kind."""
    small, exif = picture(), Image.Exif()
    exif[0x010E], exif[0x0112] = "x" * 5000, 6
    frames = {"save_all": True, "append_images": [small.rotate(90), small.rotate(180)]}
    return (
        *(encoded(small.convert(mode), "PNG") for mode in ("RGB", "RGBA", "P", "LA", "1", "I;16")),
        encoded(small, "PNG", icc_profile=random.Random(0).randbytes(3000), exif=exif),
        encoded(small, "PNG", **frames),
        *(encoded(small.convert(mode), "JPEG", exif=exif) for mode in ("RGB", "L", "CMYK")),
        encoded(small, "JPEG", progressive=True, icc_profile=bytes(3000)),
        encoded(small, "MPO", **frames),
        encoded(small, "WEBP", exif=exif),
        encoded(small.convert("RGBA"), "WEBP", lossless=True),
        encoded(small, "WEBP", **frames),
    )


def uploads(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Give so many hostile files and what was done to each; bombs come first, and are a sixteenth at most."""
    rng = random.Random(seed)
    bombs = dict(list(BOMBS.items())[: count // 16])
    yield from ((name, make()) for name, make in bombs.items())
    for _ in range(count - len(bombs)):
        mutate, data = rng.choice(MUTATIONS), rng.choice(samples())
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            data = mutate(rng, data)
        yield mutate.__name__, data


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flipped_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flipped_head(rng: random.Random, data: bytes) -> bytes:
    return flipped_bits(rng, data[:60]) + data[60:]


def noise_inside(rng: random.Random, data: bytes) -> bytes:
    at, length = rng.randrange(len(data)), rng.randrange(200)
    return data[:at] + rng.randbytes(length) + data[at + rng.choice((0, length)) :]


def moved_part(rng: random.Random, data: bytes) -> bytes:
    start, end, target = (rng.randrange(len(data) + 1) for _ in range(3))
    return data[:target] + data[start:end] + data[target:]


def lying_length(rng: random.Random, data: bytes) -> bytes:
    """Overwrite four bytes by a length that is far too large, negative or slightly off."""
    at = rng.choice((4, 8, 16, 20, 24, rng.randrange(len(data))))
    lie = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), len(data) + 1, rng.getrandbits(32)))
    return data[:at] + struct.pack(rng.choice("<>") + "I", lie) + data[at + 4 :]


def rewritten_chunk(rng: random.Random, data: bytes) -> bytes:
    """Change a PNG's chunk and make its checksum right, so that the change is believed."""
    if not data.startswith(PNG_HEAD):
        return flipped_head(rng, data)
    parts = list(_chunks(data))
    if not parts:
        return data
    which = rng.randrange(len(parts))
    kind, body = parts[which]
    parts[which] = (kind, flipped_bits(rng, body) if body and rng.random() < 0.8 else rng.randbytes(20))
    rng.choice((lambda: None, lambda: rng.shuffle(parts), lambda: parts.append(parts[which])))()
    return _png(*parts)


def wrong_magic(rng: random.Random, data: bytes) -> bytes:
    head = rng.choice(HEADS)
    return head + data[rng.choice((0, len(head))) :]


def other_type(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(HEADS) + rng.choice((b"", bytes(500), rng.randbytes(rng.randrange(3000))))


def rubbish(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(3000))


def polyglot(rng: random.Random, data: bytes) -> bytes:
    """Put something else before, behind or into a picture."""
    archive = BytesIO()
    with ZipFile(archive, "w") as opened:
        opened.writestr("../../etc/cron.d/x", HTML)
    guest = rng.choice((HTML, SVG, archive.getvalue(), rng.choice(samples()), b"<?php system($_GET[0]); ?>"))
    at = rng.choice((0, len(data), len(data), rng.randrange(len(data) + 1)))
    return data[:at] + guest + data[at:]


def noisy_exif(rng: random.Random, data: bytes) -> bytes:
    with Image.open(BytesIO(rng.choice(samples()))) as image:
        head = rng.choice((b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b""))
        exif = b"Exif\0\0" + head + rng.randbytes(rng.choice((10, 1000, 60_000)))
        return encoded(image.convert("RGB"), rng.choice(("PNG", "JPEG", "WEBP")), exif=exif)


MUTATIONS: Final[tuple[Mutation, ...]] = (
    *(truncated, flipped_bits, flipped_head, noise_inside, moved_part, lying_length, rewritten_chunk),
    *(wrong_magic, other_type, rubbish, polyglot, noisy_exif),
)


def scan_bomb(side: int, scans: int) -> bytes:
    """Return a square progressive JPEG whose last scan, of some 90 bytes, is repeated; each costs a pass over all."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def _header_bomb(image_format: str, side: int = 60_000) -> bytes:
    """Return a picture that claims to be huge."""
    if image_format == "PNG":
        return _png(
            (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)), (b"IDAT", _zeros(MB)), (b"IEND", b"")
        )
    if image_format == "WEBP":
        size = struct.pack("<I", side - 1)[:3] * 2
        body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + samples()[-3][12:]
        return b"RIFF" + struct.pack("<I", len(body)) + body
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def _zlib_bomb(kind: bytes, head: bytes) -> bytes:
    """Return a small PNG with 100 MB of packed zeros in a chunk."""
    ihdr, *rest = _chunks(samples()[0])
    return _png(ihdr, (kind, head + _zeros(100 * MB)), *rest)


def _nested(depth: int) -> bytes:
    data = samples()[0]
    for _ in range(depth):
        data = gzip.compress(data, 1, mtime=0)
    return data


def _exif_chain(entries: int) -> bytes:
    """Return a JPEG whose EXIF directories lead to each other in a ring, each as long as it can be."""
    directory = struct.pack("<H", entries) + struct.pack("<HHII", 0x010E, 2, 0xFFFFFF, 8) * entries
    return encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + directory + struct.pack("<I", 8))


@cache
def _zeros(count: int) -> bytes:
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(MB)) for _ in range(count // MB)) + packing.flush()


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give kind and body of a PNG's chunks, as far as their lengths are true."""
    at = len(PNG_HEAD)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return PNG_HEAD + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


#: The last takes all the time that it is given.
BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "empty": lambda: b"",
    "PNG of 60000 x 60000": lambda: _header_bomb("PNG"),
    "PNG of 2**31 x 2**31": lambda: _header_bomb("PNG", 2**31 - 1),
    "PNG of 0 x 0": lambda: _header_bomb("PNG", 0),
    "PNG of 8000 x 8000 that ends early": lambda: _header_bomb("PNG", 8000),
    "JPEG of 60000 x 60000": lambda: _header_bomb("JPEG"),
    "JPEG of 8000 x 8000 that ends early": lambda: _header_bomb("JPEG", 8000),
    "WebP of 60000 x 60000": lambda: _header_bomb("WEBP"),
    "zlib bomb in IDAT": lambda: _zlib_bomb(b"IDAT", b""),
    "zlib bomb in iCCP": lambda: _zlib_bomb(b"iCCP", b"x\0\0"),
    "zlib bomb in zTXt": lambda: _zlib_bomb(b"zTXt", b"x\0\0"),
    "zlib bomb in iTXt": lambda: _zlib_bomb(b"iTXt", b"x\0\1\0\0\0"),
    "EXIF that leads in a ring": lambda: _exif_chain(4000),
    "64 megapixels of white PNG": lambda: encoded(Image.new("RGB", (8000, 8000), "white"), "PNG"),
    "64 megapixels of white WebP": lambda: encoded(Image.new("RGB", (8000, 8000), "white"), "WEBP", method=0),
    "100 gzips in each other": lambda: _nested(100),
    "40 MB of noise": lambda: random.Random(1).randbytes(40 * MB),
    "51 MB": lambda: samples()[0] + bytes(51 * MB),
    "minutes of scans": lambda: scan_bomb(7900, 5000),
}
