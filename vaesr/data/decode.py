"""One image file to uint8 RGB: what can be converted faithfully is, the rest is refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np

# Goes into every cache key: raise it whenever the pixels that come out of this file change.
DECODER_VERSION = 1

_PNG = b"\x89PNG\r\n\x1a\n"
# PNG colour type -> (PIL mode, unpacker that keeps the LOW byte of each 16-bit sample). PIL itself keeps the
# high one.
_LOW_BYTE = {2: ("RGB", "RGB;16L"), 6: ("RGBA", "RGBA;16L")}


class UnusableImage(ValueError):
    """An image file that must be left out; the message is the reason."""


def require_pillow() -> Any:
    """Import Pillow where it is needed.

    Returns:
        The `PIL` package with `Image` and `ImageOps` loaded.

    Raises:
        ImportError: if Pillow is missing, with the command that installs it.
    """
    try:
        import PIL.Image
        import PIL.ImageFile
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError('reading image files needs Pillow: pip install "vaesr[experiments]"') from error
    return PIL


def decode_image(data: bytes, *, min_size: int = 1) -> tuple[np.ndarray, list[str]]:
    """Decode the bytes of one image file to 8-bit RGB.

    Grey, palette, CMYK, alpha, 16-bit and EXIF-rotated files are converted, each with a note; of an animation
    the first frame is taken. Colour profiles are not applied.

    Args:
        data: the whole file.
        min_size: smallest side, in pixels, that is accepted (>= 1).

    Returns:
        (`[H, W, 3]` uint8 pixels, list of notes on what was converted).

    Raises:
        UnusableImage: if the file is corrupt, truncated, too small, too large or of an unknown range.
    """
    pil = require_pillow()
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata (EXIF, large images); the pixels decide here, and bombs are errors
            # below.
            warnings.simplefilter("ignore")
            return _decode(pil, data, min_size)
    except UnusableImage:
        raise
    except pil.Image.DecompressionBombError as error:
        raise UnusableImage(f"refused as a decompression bomb ({error})") from error
    except pil.UnidentifiedImageError as error:
        raise UnusableImage("corrupt: no image format recognises it") from error
    except MemoryError as error:
        raise UnusableImage("too large for memory") from error
    # Pillow's decoders raise nearly anything on hostile bytes (OSError, SyntaxError, struct.error,
    # IndexError, ...).
    except Exception as error:
        word = "truncated" if "truncated" in str(error).lower() else "corrupt or unsupported"
        raise UnusableImage(f"{word}: {error or type(error).__name__}") from error


def _decode(pil: Any, data: bytes, min_size: int) -> tuple[np.ndarray, list[str]]:
    image = pil.Image.open(io.BytesIO(data))
    if min(image.size) < min_size:
        raise UnusableImage(f"tiny: {image.width}x{image.height}, the smallest accepted side is {min_size}")
    if image.width * image.height > 2 * (pil.Image.MAX_IMAGE_PIXELS or 89_478_485):
        raise UnusableImage(f"refused as a decompression bomb ({image.width}x{image.height} pixels)")
    if image.format == "PNG":
        pil.Image.open(io.BytesIO(data)).verify()  # checksums, which load() does not look at
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append(f"{image.n_frames} frames, took the first")
        image.seek(0)
    _strict_load(pil, image)
    high = _sixteen_bit_png(pil, image, data)
    if high is not None:
        notes.append("16-bit colour, scaled to 8 bits")
        image = pil.Image.fromarray(high)
    exif_turned = pil.ImageOps.exif_transpose(_exif_of(pil, data, image))
    if image.getexif().get(0x0112, 1) != 1 or exif_turned.size != image.size:
        notes.append("turned upright as its EXIF says")
    return _to_rgb(pil, exif_turned, notes), notes


def _strict_load(pil: Any, image: Any) -> None:
    """Decode, whatever another library set about truncated files."""
    lenient = pil.ImageFile.LOAD_TRUNCATED_IMAGES
    pil.ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    finally:
        pil.ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _exif_of(pil: Any, data: bytes, image: Any) -> Any:
    """`image` with the EXIF of the file it came from (16-bit files pass through an array and lose it)."""
    if not image.getexif():
        exif = pil.Image.open(io.BytesIO(data)).getexif()
        if exif.get(0x0112, 1) != 1:
            image = image.copy()
            image.getexif()[0x0112] = exif[0x0112]
    return image


def _sixteen_bit_png(pil: Any, image: Any, data: bytes) -> np.ndarray | None:
    """Colour PNGs of 16 bits, rounded to 8 (Pillow would keep the high byte: darker by half a level)."""
    if image.format != "PNG" or len(data) < 26 or data[:8] != _PNG or data[24] != 16:
        return None
    colour_type = struct.unpack("B", data[25:26])[0]
    if colour_type not in _LOW_BYTE or image.info.get("interlace"):
        return None
    mode, low_unpacker = _LOW_BYTE[colour_type]
    again = pil.Image.open(io.BytesIO(data))
    again.tile = [tile._replace(args=low_unpacker) for tile in again.tile]
    again.load()
    if image.mode != mode or again.mode != mode:
        return None
    value = np.asarray(image).astype(np.uint32) * 256 + np.asarray(again)
    return ((value * 255 + 32767) // 65535).astype(np.uint8)


def _to_rgb(pil: Any, image: Any, notes: list[str]) -> np.ndarray:
    """The last step: any PIL mode to `[H, W, 3]` uint8."""
    mode = image.mode
    if mode == "F":
        raise UnusableImage("32-bit float samples, whose range is not known")
    if mode == "I" or mode.startswith("I;"):
        value = np.asarray(image).astype(np.int64)
        if value.min() < 0 or value.max() > 65535:
            raise UnusableImage("32-bit integer samples, whose range is not known")
        notes.append("16-bit grey, scaled to 8 bits")
        image = pil.Image.fromarray(((value * 255 + 32767) // 65535).astype(np.uint8))
        mode = "L"
    if mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in image.info:
        if mode not in ("LA", "RGBA"):
            notes.append(f"{'palette' if mode in ('P', 'PA') else mode} with transparency")
        image = _without_alpha(pil, image.convert("RGBA"), notes)
    elif mode in ("L", "1"):
        notes.append("grey, repeated to RGB")
    elif mode == "P":
        notes.append("palette, looked up to RGB")
    elif mode == "CMYK":
        notes.append("CMYK, converted to RGB without its colour profile")
    elif mode != "RGB":
        notes.append(f"{mode}, converted to RGB")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _without_alpha(pil: Any, image: Any, notes: list[str]) -> Any:
    if image.getchannel("A").getextrema() == (255, 255):
        notes.append("alpha dropped (opaque everywhere)")
        return image.convert("RGB")
    notes.append("alpha composited on white")
    return pil.Image.alpha_composite(pil.Image.new("RGBA", image.size, "white"), image).convert("RGB")
