"""Photographs on disk: every usual mode and depth in, the same mode and depth out."""

import dataclasses
import importlib
import io
import math
import os
import pathlib
from typing import Any

import numpy as np

from vaesr.files.atomic import write_atomically
from vaesr.files.extras import encoded, pillow
from vaesr.files.metadata import Details, Metadata, read_details, saved_with, tiff_with
from vaesr.files.opening import ImageFile, ImageFileError, opened, samples, upright
from vaesr.files.png16 import decode_png16, encode_png16, is_png16, xmp_of_png

READABLE = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".ppm",
    ".pgm", ".jp2", ".tga", ".ico",
)  # fmt: skip
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
WRITABLE = tuple(_FORMATS)
_MOST_SIDE = {"JPEG": 65_535, "WEBP": 16_383}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclasses.dataclass(frozen=True)
class Photo:
    """One image as stored.

    `pixels` are uint8 or uint16 `[H, W, C]`: 1 grey, 2 grey with alpha, 3 RGB, 4 RGBA; upright. The colour
    profile is the embedded one, and belongs to the pixels; `notes` tell what was changed while reading, for
    example `"CMYK converted to RGB"`; `details` are EXIF, XMP and resolution, of a picture that is upright.
    """

    pixels: np.ndarray
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()
    details: Details = Details()


def read_photo(path: str | os.PathLike[str], *, metadata: Metadata = "all") -> Photo:
    """Reads an image file whatever its extension says it is.

    EXIF orientation is applied, palettes are looked up, CMYK becomes RGB (through its colour profile where it
    has one), and 16-bit PNG stays 16-bit. Of an animation the first frame is taken. `metadata` says what is
    kept of EXIF and XMP: "all", "no-gps" all but the place, "none" nothing. An ImageFileError where the file
    is no image, damaged, empty, or of samples that have no known range.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ImageFileError(f"cannot be read: {error.strerror or error}") from error
    with opened(data) as file:
        icc = file.image.info.get("icc_profile")
        # Before anything is loaded, after which a TIFF tells no more; and neither way to 16 bits turns the
        # pixels, as Pillow does of TIFFs.
        orientation, details = file.orientation, read_details(file.image, xmp_of_png(data), metadata)
        pixels = decode_png16(file.data, pillow("Image")) if is_png16(data) else _tiff16(file)
        if pixels is None:
            image = file.load()
            orientation = file.orientation
            if image.mode == "CMYK":
                file.notes.append("CMYK converted to RGB")
                image, icc = _cmyk_to_rgb(image, icc), None
            pixels = samples(image)
            if image.mode in ("P", "PA"):
                file.notes.append(f"palette converted to {_MODES[pixels.shape[2]]}")
        return Photo(upright(pixels, orientation), icc, tuple(file.notes), details)


def is_tiff16(image: Any) -> bool:
    """Tells whether Pillow's image is a TIFF of RGB or RGBA with 16 bits, of which Pillow would keep 8."""
    if image.format != "TIFF":
        return False
    return tuple(image.tag_v2.get(258, ()))[:3] == (16, 16, 16) and image.mode in ("RGB", "RGBA", "RGBX")


def _tiff16(file: ImageFile) -> np.ndarray | None:
    """Pixels of a TIFF as uint16 `[H, W, 3 or 4]`; None, with a note, where only Pillow can read them."""
    if not is_tiff16(file.image):
        return None
    lost = "16-bit colour TIFF read as 8 bits"
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        file.notes.append(f'{lost} (pip install "vaesr[pretrained]" brings tifffile, which keeps 16)')
        return None
    try:
        with tifffile.TiffFile(io.BytesIO(file.data)) as tiff:
            page = tiff.pages[0]
            # Pillow has looked at the sides alone; there are tags that make more of them.
            if math.prod(page.shape) > 4 * file.image.width * file.image.height:
                raise ValueError("it has more numbers than pixels")
            pixels = page.asarray()
            planar = page.planarconfig == 2
    except Exception as error:  # codecs it lacks; what is damaged Pillow will find, too
        file.notes.append(f"{lost} ({' '.join(str(error).split())[:80]}; convert it to PNG to keep 16)")
        return None
    pixels = np.moveaxis(pixels, 0, -1) if planar else pixels
    stored = tuple(file.image.tag_v2.get(tag) for tag in (257, 256))  # rows and columns, not turned yet
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[:2] != stored:
        file.notes.append(f"{lost} (convert it to PNG to keep 16)")
        return None
    return np.ascontiguousarray(pixels[..., : 4 if file.image.mode == "RGBA" else 3])


def _cmyk_to_rgb(image: Any, icc: bytes | None) -> Any:
    """To sRGB through the embedded profile; by Pillow's plain formula where there is none that works."""
    if icc:
        try:
            cms = pillow("ImageCms")
            source = cms.ImageCmsProfile(io.BytesIO(icc))
            converted = cms.profileToProfile(image, source, cms.createProfile("sRGB"), outputMode="RGB")
        except Exception:  # a broken profile is no reason to lose the picture
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def fits(extension: str, channels: int, bits: int, side: int = 1) -> str | None:
    """Tells why a format cannot hold an image, for example `"JPEG cannot hold transparency"`; None: it can.

    The extension is one of `WRITABLE`, lower case; there are 1 to 4 channels of 8 or 16 bits, and `side`
    pixels on the longer side.
    """
    if extension not in _FORMATS:
        raise ValueError(f"extension must be one of {', '.join(WRITABLE)}, got {extension!r}")
    kind = _FORMATS[extension]
    if kind == "JPEG" and channels in (2, 4):
        return "JPEG cannot hold transparency"
    if bits == 16 and (kind in ("JPEG", "WEBP") or (kind == "TIFF" and channels == 2)):
        return f"{kind} is written with 8 bits, the image has 16"
    if side > _MOST_SIDE.get(kind, side):
        return f"{kind} holds at most {_MOST_SIDE[kind]} pixels a side, the image has {side}"
    return None


def write_photo(path: str | os.PathLike[str], photo: Photo, *, quality: int = 95) -> None:
    """Writes an image atomically, in the mode and depth of its pixels.

    The path ends in `.png`, `.jpg`, `.jpeg`, `.webp`, `.tif` or `.tiff`. The quality is JPEG's and WebP's, 1
    to 100; JPEG keeps full colour resolution. An ImageFileError where the format cannot hold the image, or
    the place cannot be written. EXIF, XMP and resolution are written, too, EXIF with the sides of these
    pixels; but WebP has no resolution, and JPEG nothing beyond 64 KiB.
    """
    path = pathlib.Path(path)
    height, width, channels = photo.pixels.shape
    bits = 16 if photo.pixels.dtype == np.uint16 else 8
    reason = fits(path.suffix.lower(), channels, bits, max(height, width))
    if reason:
        raise ImageFileError(f"{reason}; write PNG instead")
    kind = _FORMATS[path.suffix.lower()]
    if bits == 16 and kind == "PNG":
        # What Pillow writes beside the pixels of a PNG of its own.
        like = encoded(np.zeros((1, 1), np.uint8), kind, **saved_with(photo.details, kind, width, height))
        data = encode_png16(photo.pixels, icc_profile=photo.icc_profile, details=like)
    elif bits == 16 and channels > 1:
        data = _encode_tiff16(photo)
    else:
        data = _encode(photo, kind, quality)
    if kind == "TIFF":
        data = tiff_with(data, photo.details, width, height)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ImageFileError(f"cannot write {path}: {error.strerror or error}") from error


def _encode_tiff16(photo: Photo) -> bytes:
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError as error:
        raise ImageFileError(
            'TIFF of 16-bit colour needs tifffile (pip install "vaesr[pretrained]"); write PNG instead'
        ) from error
    buffer = io.BytesIO()
    extra = ["unassalpha"] if photo.pixels.shape[2] == 4 else None
    tifffile.imwrite(
        buffer,
        photo.pixels,
        photometric="rgb",
        extrasamples=extra,
        compression="zlib",
        iccprofile=photo.icc_profile,
        metadata=None,
        software=False,
        **({"resolution": photo.details.dpi, "resolutionunit": "INCH"} if photo.details.dpi else {}),
    )
    return buffer.getvalue()


def _encode(photo: Photo, kind: str, quality: int) -> bytes:
    by_kind: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_deflate"},
    }
    height, width = photo.pixels.shape[:2]
    options = by_kind.get(kind, {}) | saved_with(photo.details, kind, width, height)
    if photo.icc_profile:
        options["icc_profile"] = photo.icc_profile
    pixels = photo.pixels[..., 0] if photo.pixels.shape[2] == 1 else photo.pixels
    return encoded(pixels, kind, **options)
