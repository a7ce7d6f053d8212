"""Variations as files: encoded in the format asked for, marked as made by a model."""

from io import BytesIO
from typing import Any, Final

from PIL.PngImagePlugin import PngInfo

from shared.images import ImageType, Picture
from shared.jobs import OutputFormat

TYPES: Final = {known.extension: known for known in ImageType}

#: Says that a trained model made the picture. Source: IPTC, Digital Source Type vocabulary.
XMP: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def encode(picture: Picture, output_format: OutputFormat, quality: int) -> bytes:
    """Return an RGB picture as a file with the XMP mark; ``quality`` is 1 ... 100, for WebP and JPEG."""
    file, image_type = BytesIO(), TYPES[output_format]
    picture.save(file, format=image_type.name, **_options(image_type, quality))
    return file.getvalue()


def _options(image_type: ImageType, quality: int) -> dict[str, Any]:
    if image_type is ImageType.PNG:
        marks = PngInfo()
        marks.add_itxt("XML:com.adobe.xmp", XMP.decode())
        return {"pnginfo": marks}
    return {"quality": quality, "xmp": XMP}
