"""What stands in an image file beside its pixels: EXIF, XMP and resolution, made true for other pixels."""

import dataclasses
import re
import struct
from typing import Any, Literal

from vaesr.files.extras import pillow

Metadata = Literal["all", "no-gps", "none"]

_ORIENTATION, _GPS, _DETAILS, _WIDTH, _HEIGHT = 0x0112, 0x8825, 0x8769, 0xA002, 0xA003
# Of the first directory: texts, dates and resolution. The others describe the old file's layout, hold smaller
# pictures of it, or tell what is true of its pixels alone; some tell the place by another name (GeoTIFF).
_KEPT = frozenset({
    0x010D, 0x010E, 0x010F, 0x0110, _ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C,
    0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0),
})  # fmt: skip
_MAKERS_OWN = 0x927C  # whatever the camera's maker writes, and nobody else can read
_INTEROPERABILITY = 0xA005  # where that directory stood
_ENDS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_MOST = 1 << 20  # bytes of one of them; JPEG holds 64 KiB
_MOST_IN_JPEG = 65_500


@dataclasses.dataclass(frozen=True)
class Details:
    """What is known of a picture.

    Attributes:
        exif: the TIFF structure of EXIF, without "Exif" before it.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def read_details(image: Any, xmp: bytes | None, keep: Metadata) -> Details:
    """What Pillow's image tells, of pictures that are turned upright: their orientation is 1.

    `xmp` is given where Pillow doesn't read it. With "no-gps" all but the place is kept, with "none" nothing
    but the resolution. What is broken or very large is left out.
    """
    dpi = _resolution(image.info.get("dpi"))
    if keep == "none":
        return Details(dpi=dpi)
    xmp = xmp or image.info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return Details(_upright_exif(image, keep), _upright_xmp(xmp, keep), dpi)


def _resolution(dpi: Any) -> tuple[float, float] | None:
    """Pixels per inch that a format can hold; 1 and less mean "not known"."""
    try:
        across, down = (float(each) for each in dpi)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 1 < across <= 65535 and 1 < down <= 65535 else None


def _upright_exif(image: Any, keep: Metadata) -> bytes | None:
    try:
        found, exif = image.getexif(), pillow("Image").Exif()
        exif.update({tag: value for tag, value in found.items() if tag in _KEPT})
        if _ORIENTATION in exif:
            exif[_ORIENTATION] = 1
        for tag in (_DETAILS, _GPS):
            left_out = {_INTEROPERABILITY} | ({_MAKERS_OWN} if keep == "no-gps" else set())
            inner = {name: value for name, value in found.get_ifd(tag).items() if name not in left_out}
            if inner and not (tag == _GPS and keep == "no-gps"):
                exif[tag] = inner
        if not len(exif):
            return None
        content = exif.tobytes().removeprefix(b"Exif\0\0")
    except Exception:  # whatever strange tags make Pillow raise
        return None
    return content if len(content) <= _MOST else None


def _upright_xmp(xmp: Any, keep: Metadata) -> bytes | None:
    if not isinstance(xmp, bytes) or not 0 < len(xmp) <= _MOST:
        return None
    xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)\d+", rb"\g<1>1", xmp)
    if keep == "no-gps":
        xmp = re.sub(rb"\sexif:GPS\w+\s*=\s*(\"[^\"]*\"|'[^']*')", b"", xmp)
        xmp = re.sub(rb"<(exif:GPS\w+)\b[^<>]*(/>|>[^<]*</\1\s*>)", b"", xmp)
    # What is written in another way is not kept at all.
    return None if keep == "no-gps" and re.search(rb"(?i)gps|latitude|long\w*tude", xmp) else xmp


def sized_exif(exif: bytes, width: int, height: int) -> bytes:
    """The same with the sides that the picture has now, where it tells them."""
    try:
        changed = _opened(exif)
        inner = changed.get_ifd(_DETAILS)
        changed.get_ifd(_GPS)
        for tag, side in ((_WIDTH, width), (_HEIGHT, height)):
            if tag in inner:
                inner[tag] = side
        return bytes(changed.tobytes().removeprefix(b"Exif\0\0"))
    except Exception:  # as above
        return exif


def saved_with(details: Details, kind: str, width: int, height: int) -> dict[str, Any]:
    """The options of Pillow's `save` that write this into a file of a format, "PNG" for example.

    Of a TIFF the resolution only: Pillow's compressed ones hold no directories within, see `tiff_with`.
    """
    options: dict[str, Any] = {}
    if details.dpi and kind != "WEBP":
        options["dpi"] = details.dpi
    most = _MOST_IN_JPEG if kind == "JPEG" else _MOST
    if kind == "TIFF":
        return options
    if details.exif and len(details.exif) <= most:
        options["exif"] = b"Exif\0\0" + sized_exif(details.exif, width, height)
    if details.xmp and len(details.xmp) <= most:
        if kind == "PNG":
            notes = pillow("PngImagePlugin").PngInfo()
            notes.add_itxt("XML:com.adobe.xmp", details.xmp.decode("utf-8", "replace"))
            options["pnginfo"] = notes
        else:
            options["xmp"] = details.xmp
    return options


def tiff_with(content: bytes, details: Details, width: int, height: int) -> bytes:
    """A TIFF file with EXIF and XMP in its first directory, which is written anew at the file's end.

    As it was if it has none of TIFF's plain form. Source: TIFF 6.0, section 2; EXIF 2.3, section 4.6.3.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None or not (details.exif or details.xmp):
        return content
    try:
        return _with_directories(content, order, details, width, height)
    except Exception:  # strange tags are no reason to lose the picture
        return content


def _with_directories(content: bytes, order: str, details: Details, width: int, height: int) -> bytes:
    (first,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, first)
    entries = {}
    for place in range(first + 2, first + 2 + 12 * count, 12):
        entries[struct.unpack_from(order + "H", content, place)[0]] = content[place : place + 12]
    following = content[first + 2 + 12 * count :][:4]
    data = bytearray(content)

    def append(what: bytes) -> int:
        data.extend(bytes(len(data) % 2))  # directories and values begin at even places
        data.extend(what)
        return len(data) - len(what)

    def point(tag: int, kind: int, number: int, place: int) -> None:
        entries.setdefault(tag, struct.pack(order + "HHII", tag, kind, number, place))

    if details.xmp:
        point(0x02BC, 1, len(details.xmp), append(details.xmp))
    if details.exif:
        tags = _opened(sized_exif(details.exif, width, height))
        for tag, text in tags.items():
            if isinstance(text, str) and text.isascii():
                value = text.encode() + b"\0"
                place = (
                    append(value) if len(value) > 4 else int.from_bytes(value.ljust(4, b"\0"), _ENDS[order])
                )
                point(tag, 2, len(value), place)
        directory = pillow("TiffImagePlugin").ImageFileDirectory_v2
        for tag in (_DETAILS, _GPS):
            inner = directory(ifh=content[:4] + bytes(4))
            for name, value in tags.get_ifd(tag).items():
                if name != _INTEROPERABILITY:
                    inner[name] = value
            if len(inner):
                place = append(b"")
                point(tag, 4, 1, append(inner.tobytes(place)))
    rows = b"".join(entries[tag] for tag in sorted(entries))
    place = append(struct.pack(order + "H", len(entries)) + rows + following)
    struct.pack_into(order + "I", data, 4, place)
    return bytes(data)


def _opened(exif: bytes) -> Any:
    tags = pillow("Image").Exif()
    tags.load(b"Exif\0\0" + exif)
    return tags
