from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from shared.errors import BrokenImage, UnsupportedImage
from shared.images import ImageType, inspect, read_source
from shared.jobs import OutputFormat
from tests.samples import encoded, picture
from worker.encoding import TYPES, encode

LIMIT = 64_000_000


@pytest.mark.parametrize("image_type", ImageType)
def test_the_types_that_are_taken_are_known_by_their_bytes(image_type: ImageType) -> None:
    data = encoded(picture(), image_type.name)
    assert inspect(BytesIO(data), max_pixels=LIMIT) is image_type


def test_a_photograph_with_a_second_picture_behind_it_is_a_jpeg() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
    assert inspect(BytesIO(data), max_pixels=LIMIT) is ImageType.JPEG
    assert read_source(data).picture.size == (64, 48)


@pytest.mark.parametrize("image_type", ImageType)
def test_a_truncated_image_is_found_by_decoding(image_type: ImageType) -> None:
    data = encoded(picture(400, 300), image_type.name)
    with pytest.raises(BrokenImage, match="truncated or damaged"):
        inspect(BytesIO(data[: len(data) * 2 // 3]), max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encoded(picture(), "GIF"), "a GIF"),
        (encoded(picture(), "BMP"), "a BMP"),
        (encoded(picture(), "TIFF"), "a TIFF"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (b"\x01\x02\x03", "01 02 03"),
    ],
)
def test_any_other_type_is_refused_by_name(data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"{what}.*PNG, JPEG, WEBP"):
        inspect(BytesIO(data), max_pixels=LIMIT)


@pytest.mark.parametrize("side", [9000, 10_000, 14_000])
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    header_only = encoded(Image.new("1", (side, side)), "PNG")[:60]
    with pytest.raises(BrokenImage, match=f"{side} x {side} = {side * side} pixels; at most 64000000"):
        inspect(BytesIO(header_only), max_pixels=LIMIT)


def test_an_empty_file_is_named_as_such() -> None:
    with pytest.raises(BrokenImage, match="empty"):
        inspect(BytesIO(b""), max_pixels=LIMIT)


@given(st.binary(max_size=200), st.sampled_from(ImageType), st.integers(0, 400))
def test_rubbish_is_refused_in_our_own_words(noise: bytes, image_type: ImageType, at: int) -> None:
    good = encoded(picture(), image_type.name)
    for data in (noise, good[:at] + noise + good[at + len(noise) :]):
        try:
            inspect(BytesIO(data), max_pixels=LIMIT)
        except (BrokenImage, UnsupportedImage):
            continue
        assert read_source(data).picture.mode == "RGB"


def test_the_model_sees_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright = read_source(encoded(picture(64, 48), "JPEG", exif=exif)).picture
    assert upright.size == (48, 64)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_with_the_picture_in_it() -> None:
    whole = picture(4400, 2200)
    reduced = read_source(encoded(whole, "JPEG")).picture
    assert reduced.size == (2200, 1100)
    difference = ImageChops.difference(reduced, whole.resize(reduced.size, Image.Resampling.BOX))
    assert max(ImageStat.Stat(difference).mean) < 4


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert read_source(encoded(clear, "PNG")).picture.getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (8, 8), 200).convert(mode) if mode != "LA" else Image.new("LA", (8, 8), (200, 255))
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert read_source(data).picture.mode == "RGB"


def test_sixteen_bits_of_grey_keep_their_levels() -> None:
    data = encoded(Image.linear_gradient("L").convert("I").point(lambda level: level * 257).convert("I;16"), "PNG")
    levels = [read_source(data).picture.getpixel((0, row)) for row in (0, 128, 255)]
    assert [level[0] for level in levels if isinstance(level, tuple)] == pytest.approx([0, 128, 255], abs=1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_a_picture() -> None:
    data = encoded(picture(), "WEBP", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert inspect(BytesIO(data), max_pixels=LIMIT) is ImageType.WEBP
    assert read_source(data).picture.size == (64, 48)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_variation_says_that_a_model_made_it(output_format: OutputFormat) -> None:
    data = encode(picture(), output_format, 80)
    with Image.open(BytesIO(data)) as image:
        assert image.format == TYPES[output_format].name
        xmp = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in xmp


def test_quality_matters_for_lossy_formats() -> None:
    for output_format in (OutputFormat.WEBP, OutputFormat.JPG):
        assert len(encode(picture(256, 256), output_format, 10)) < len(encode(picture(256, 256), output_format, 95))
