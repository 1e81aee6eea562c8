"""Photographs on disk: every usual mode and depth in, the same mode and depth out."""

import dataclasses
import importlib
import io
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from vaesr.inference.png16 import decode_png16, encode_png16, is_png16, without_text
from vaesr.reports.canvas import pillow, write_atomically

READABLE = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2")
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
WRITABLE = tuple(_FORMATS)
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112


class ImageFileError(ValueError):
    """A file that cannot be read or written as an image; the message is the reason, without the name."""


@dataclasses.dataclass(frozen=True)
class Photo:
    """One image as stored.

    Attributes:
        pixels: uint8 or uint16 `[H, W, C]`: 1 grey, 2 grey with alpha, 3 RGB, 4 RGBA; upright.
        icc_profile: the embedded colour profile that belongs to the pixels, or None.
        notes: what was changed while reading, for example `"CMYK converted to RGB"`.
    """

    pixels: np.ndarray
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Reads an image file whatever its extension says it is.

    EXIF orientation is applied, palettes are looked up, CMYK becomes RGB (through its colour profile where
    it has one), and 16-bit PNG stays 16-bit. Of an animation the first frame is taken. Other EXIF data is
    not kept.

    Args:
        path: the file.

    Returns:
        The photo.

    Raises:
        ImageFileError: where the file is no image, damaged, empty, or of samples that have no known range.
        ImportError: where Pillow is missing.
    """
    image_module = pillow("Image")
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ImageFileError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageFileError("is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide here
        try:
            return _decode(image_module, data)
        except (ImageFileError, MemoryError):
            raise
        except image_module.UnidentifiedImageError:
            raise ImageFileError("is not an image, or of a format that Pillow does not know") from None
        # Pillow's decoders raise nearly anything on hostile bytes.
        except Exception as error:
            word = "truncated" if "truncated" in str(error).lower() else "damaged or unsupported"
            raise ImageFileError(f"is {word}: {error or type(error).__name__}") from error


def _decode(image_module: Any, data: bytes) -> Photo:
    data = without_text(data)
    image = image_module.open(io.BytesIO(data))
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append(f"{image.n_frames} frames, took the first")
    orientation = image.getexif().get(_ORIENTATION, 1)
    icc = image.info.get("icc_profile")
    if is_png16(data):
        pixels = decode_png16(data, image_module)
    else:
        deep = _tiff16(data, image, notes) if is_tiff16(image) else None
        if deep is None:
            image.load()
            pixels, icc = _pixels(image_module, image, icc, notes)
        else:
            pixels = deep
    return Photo(_upright(pixels, orientation), icc, tuple(notes))


def is_tiff16(image: Any) -> bool:
    """Tells whether a TIFF holds RGB or RGBA of 16 bits, which Pillow would read with 8.

    Args:
        image: opened by Pillow.

    Returns:
        True for such a file.
    """
    if image.format != "TIFF":
        return False
    return tuple(image.tag_v2.get(258, ()))[:3] == (16, 16, 16) and image.mode in ("RGB", "RGBA", "RGBX")


def _tiff16(data: bytes, image: Any, notes: list[str]) -> np.ndarray | None:
    """Its pixels as uint16 `[H, W, 3 or 4]`; None, with a note, where only Pillow can read them."""
    lost = "16-bit colour TIFF read as 8 bits"
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        notes.append(f'{lost} (pip install "vaesr[pretrained]" brings tifffile, which keeps 16)')
        return None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            pixels = page.asarray()
            planar = page.planarconfig == 2
    except Exception as error:  # codecs it lacks; what is damaged Pillow will find, too
        notes.append(f"{lost} ({' '.join(str(error).split())[:80]}; convert it to PNG to keep 16)")
        return None
    pixels = np.moveaxis(pixels, 0, -1) if planar else pixels
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[:2] != (image.height, image.width):
        notes.append(f"{lost} (convert it to PNG to keep 16)")
        return None
    return np.ascontiguousarray(pixels[..., : 4 if image.mode == "RGBA" else 3])


def _pixels(
    image_module: Any, image: Any, icc: bytes | None, notes: list[str]
) -> tuple[np.ndarray, bytes | None]:
    """Any Pillow mode as `[H, W, C]`, with the profile that fits it."""
    mode = image.mode
    if mode == "F":
        raise ImageFileError("holds 32-bit float samples, whose range is not known")
    if mode == "I" or mode.startswith("I;"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageFileError("holds 32-bit integer samples, whose range is not known")
        return values.astype(np.uint16)[..., None], icc
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if mode == "CMYK":
        notes.append("CMYK converted to RGB")
        image, icc = _cmyk_to_rgb(image, icc), None
    elif mode in ("LA", "La") or (mode in ("1", "L") and transparent):
        image = image.convert("RGBA").convert("LA") if mode != "LA" else image
    elif transparent:
        image = image.convert("RGBA")
    elif mode in ("1", "L"):
        image = image.convert("L")
    elif mode != "RGB":
        image = image.convert("RGB")
    if mode in ("P", "PA"):
        notes.append("palette converted to " + image.mode)
    pixels = np.asarray(image)
    return (pixels[..., None] if pixels.ndim == 2 else pixels), icc


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


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies EXIF orientation 1..8; anything else counts as 1."""
    turns = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }
    return np.ascontiguousarray(turns.get(orientation, lambda p: p)(pixels))


def fits(extension: str, channels: int, bits: int) -> str | None:
    """Tells what a file format cannot hold of an image.

    Args:
        extension: one of `WRITABLE`, lower case.
        channels: 1 to 4.
        bits: 8 or 16.

    Returns:
        None where the image fits, else the reason, for example `"JPEG cannot hold transparency"`.

    Raises:
        ValueError: on an extension that cannot be written.
    """
    if extension not in _FORMATS:
        raise ValueError(f"extension must be one of {', '.join(WRITABLE)}, got {extension!r}")
    kind = _FORMATS[extension]
    if kind == "JPEG" and channels in (2, 4):
        return "JPEG cannot hold transparency"
    if bits == 16 and (kind in ("JPEG", "WEBP") or (kind == "TIFF" and channels == 2)):
        return f"{kind} is written with 8 bits, the image has 16"
    return None


def write_photo(path: str | os.PathLike[str], photo: Photo, *, quality: int = 95) -> None:
    """Writes an image atomically, in the mode and depth of its pixels.

    Args:
        path: ends in `.png`, `.jpg`, `.jpeg`, `.webp`, `.tif` or `.tiff`.
        photo: pixels and colour profile.
        quality: of JPEG and WebP, 1 to 100; JPEG keeps full colour resolution.

    Returns:
        Nothing.

    Raises:
        ImageFileError: where the format cannot hold the image, or the place cannot be written.
    """
    path = pathlib.Path(path)
    height, width, channels = photo.pixels.shape
    bits = 16 if photo.pixels.dtype == np.uint16 else 8
    reason = fits(path.suffix.lower(), channels, bits)
    if reason:
        raise ImageFileError(f"{reason}; write PNG instead")
    kind = _FORMATS[path.suffix.lower()]
    limit = {"JPEG": 65535, "WEBP": 16383}.get(kind)
    if limit and max(height, width) > limit:
        raise ImageFileError(f"{kind} holds at most {limit} pixels a side, the result has {width} x {height}")
    if bits == 16 and kind == "PNG":
        data = encode_png16(photo.pixels, icc_profile=photo.icc_profile)
    elif bits == 16 and channels > 1:
        data = _encode_tiff16(photo)
    else:
        data = _encode(photo, kind, quality)
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
    )
    return buffer.getvalue()


def _encode(photo: Photo, kind: str, quality: int) -> bytes:
    by_kind: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_deflate"},
    }
    options = by_kind.get(kind, {})
    if photo.icc_profile:
        options["icc_profile"] = photo.icc_profile
    pixels = photo.pixels[..., 0] if photo.pixels.shape[2] == 1 else photo.pixels
    buffer = io.BytesIO()
    pillow("Image").fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()
