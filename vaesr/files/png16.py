"""16-bit PNG files, which Pillow reads only in grey and writes only in grey; comments that it refuses."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG colour type
_LOW_BYTES = {2: "RGB;16L", 6: "RGBA;16L"}  # Pillow's unpackers of the lower byte of each sample


def is_png16(data: bytes) -> bool:
    """Whether bytes (26 suffice) begin like a PNG of 16 bits a sample: grey or RGB, with alpha or not."""
    return len(data) >= 26 and data[:8] == _SIGNATURE and data[24] == 16


def without_text(data: bytes) -> bytes:
    """A PNG file without its comments: Pillow refuses pictures with compressed ones that are large.

    As it was if it is no PNG, or not one as far as its last comment.
    """
    if data[:8] != _SIGNATURE:
        return data
    parts, place = [data[:8]], 8
    for kind, content in _chunks(data):
        end = place + 12 + len(content)
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            parts.append(data[place:end])
        place = end
    return b"".join([*parts, data[place:]])


def xmp_of_png(data: bytes) -> bytes | None:
    """A PNG file's XMP packet, where it has one that is not compressed."""
    for kind, content in _chunks(data):
        keyword, _, rest = content.partition(b"\0")
        if kind == b"iTXt" and keyword == b"XML:com.adobe.xmp" and rest[:1] == b"\0":
            return rest[2:].split(b"\0", 2)[-1]  # after the language and the keyword's translation
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of a PNG file's chunks, as far as they are whole; none of another file."""
    place = 8 if data[:8] == _SIGNATURE else len(data)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return
        yield data[place + 4 : place + 8], data[place + 8 : end - 4]
        place = end


def encode_png16(
    pixels: np.ndarray, *, icc_profile: bytes | None = None, details: bytes | None = None
) -> bytes:
    """Writes uint16 `[H, W, C]` of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels as a 16-bit PNG.

    `details` is another PNG file, whose EXIF, texts and resolution are written, too.

    Rows carry filter 2 ("up"), which is one subtraction in numpy. Source: PNG specification, third edition,
    sections 5, 9 and 11.
    """
    if (
        pixels.ndim != 3
        or pixels.dtype != np.uint16
        or pixels.shape[2] not in _COLOUR_TYPES
        or 0 in pixels.shape
    ):
        raise ValueError(f"pixels must be uint16 [H, W, 1..4], got {pixels.dtype} {pixels.shape}")
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [_SIGNATURE, _chunk(b"IHDR", header)]
    if icc_profile:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if details:
        beside = (b"eXIf", b"iTXt", b"pHYs")
        parts += [_chunk(kind, content) for kind, content in _chunks(details) if kind in beside]
    parts += [_chunk(b"IDAT", zlib.compress(filtered.data, 6)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def decode_png16(data: bytes, pillow_image: Any) -> np.ndarray:
    """Reads a 16-bit PNG, for which `is_png16(data)` holds, as uint16 `[H, W, C]`, C as stored.

    Pillow undoes compression and filters; it is only made to hand out both bytes of a sample. RGB and RGBA
    are read twice, upper bytes and lower bytes. Grey with alpha has four bytes a pixel like 8-bit RGBA,
    filters included, so the same data is read under that name. A ValueError on an interlaced colour file, an
    OSError on damaged data.
    """
    colour_type, interlaced = data[25], data[28]
    if colour_type == 0:
        grey = np.asarray(pillow_image.open(io.BytesIO(data)))
        return grey.astype(np.uint16)[..., None]
    if interlaced:
        raise ValueError("interlaced 16-bit colour PNG cannot be read; save it without interlacing")
    if colour_type == 4:
        header = data[16:24] + bytes((8, 6, 0, 0, 0))
        renamed = data[:8] + _chunk(b"IHDR", header) + data[33:]
        both = np.asarray(pillow_image.open(io.BytesIO(renamed)))
        return np.ascontiguousarray(both).view(">u2").astype(np.uint16)
    upper = pillow_image.open(io.BytesIO(data))
    lower = pillow_image.open(io.BytesIO(data))
    lower.tile = [tile._replace(args=_LOW_BYTES[colour_type]) for tile in lower.tile]
    return np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
