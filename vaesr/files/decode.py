"""One image file to uint8 RGB: what can be converted faithfully is, the rest is refused with a reason."""

from __future__ import annotations

import numpy as np

from vaesr.files.extras import pillow
from vaesr.files.opening import ImageFileError, opened, samples, upright
from vaesr.files.png16 import decode_png16, is_png16

# Goes into every cache key: raise it whenever the pixels that come out of this file change.
DECODER_VERSION = 1


def decode_image(data: bytes, *, min_size: int = 1) -> tuple[np.ndarray, list[str]]:
    """Decode the bytes of one image file to 8-bit RGB `[H, W, 3]`, with notes on what was converted.

    Grey, palette, CMYK, alpha, 16-bit and EXIF-rotated files are converted, each with a note; of an animation
    the first frame is taken. Colour profiles are not applied. An ImageFileError if the file is corrupt,
    truncated, of a side below `min_size` pixels, too large or of an unknown range.
    """
    try:
        with opened(data, strict=True) as file:
            if min(file.image.size) < min_size:
                size = f"{file.image.width}x{file.image.height}"
                raise ImageFileError(f"is tiny: {size}, the smallest accepted side is {min_size}")
            image = file.load()
            pixels, notes = samples(image), file.notes
            # Of other colour files of 16 bits (TIFF, interlaced, grey with alpha) Pillow's 8 bits have to do.
            if is_png16(data) and data[25] in (2, 6) and not image.info.get("interlace"):
                notes.append("16-bit colour, scaled to 8 bits")
                pixels = _eight_bits(decode_png16(data, pillow("Image")))
            if file.orientation != 1:
                notes.append("turned upright as its EXIF says")
            return upright(_rgb(pixels, image.mode, notes), file.orientation), notes
    except MemoryError as error:
        raise ImageFileError("is too large for memory") from error


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Rounded: Pillow would keep the high byte, darker by half a level."""
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _rgb(pixels: np.ndarray, mode: str, notes: list[str]) -> np.ndarray:
    """The last step: samples of a file of Pillow's `mode` to `[H, W, 3]` uint8."""
    if pixels.dtype == np.uint16:
        notes.append("16-bit grey, scaled to 8 bits")
        pixels = _eight_bits(pixels)
    channels = pixels.shape[2]
    if channels in (2, 4):
        if mode not in ("LA", "RGBA"):
            notes.append(f"{'palette' if mode in ('P', 'PA') else mode} with transparency")
        return _without_alpha(pixels, notes)
    if channels == 1:
        notes.append("grey, repeated to RGB")
        return np.repeat(pixels, 3, axis=2)
    if mode != "RGB":
        way = {"P": "palette, looked up", "CMYK": "CMYK, converted"}.get(mode, f"{mode}, converted")
        notes.append(f"{way} to RGB" + (" without its colour profile" if mode == "CMYK" else ""))
    return pixels


def _without_alpha(pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    pixels = pixels if pixels.shape[2] == 4 else pixels[..., (0, 0, 0, 1)]
    if (pixels[..., 3] == 255).all():
        notes.append("alpha dropped (opaque everywhere)")
        return pixels[..., :3]
    notes.append("alpha composited on white")
    pil = pillow("Image")
    image = pil.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(pil.alpha_composite(pil.new("RGBA", image.size, "white"), image))[..., :3]
