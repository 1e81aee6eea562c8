"""Image files opened and checked in one place: their pixels as stored, or one reason why there are none."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from vaesr.files.extras import pillow
from vaesr.files.png16 import without_text

_ORIENTATION = 0x0112
_MOST_PIXELS = 2 * 89_478_485  # as Pillow refuses them, where nobody lifted its limit


class ImageFileError(ValueError):
    """A file that cannot be read or written as an image; the message is the reason, without the name."""


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An open image file: its bytes, and Pillow's image, at the first frame of an animation.

    `notes` say what is taken otherwise than it stands in the file; whoever converts adds to them.
    """

    data: bytes
    image: Any
    notes: list[str]

    def load(self) -> Any:
        """Decodes the pixels of `image`, whatever another library told Pillow about truncated files."""
        settings = pillow("ImageFile")
        lenient = settings.LOAD_TRUNCATED_IMAGES
        settings.LOAD_TRUNCATED_IMAGES = False
        try:
            self.image.load()
        finally:
            settings.LOAD_TRUNCATED_IMAGES = lenient
        return self.image

    @property
    def orientation(self) -> int:
        """How the pixels lie by EXIF; 1 is upright, and what a TIFF becomes as Pillow loads it."""
        if self.image.format == "PNG":
            self.load()  # as Pillow would to find EXIF, and what is wrong with the pixels must be told
        try:
            return self.image.getexif().get(_ORIENTATION, 1)
        except Exception:  # whatever broken EXIF makes Pillow raise; the picture is not broken
            return 1


@contextlib.contextmanager
def opened(data: bytes, *, strict: bool = False) -> Iterator[ImageFile]:
    """Opens an image file; what goes wrong, in the `with` too, becomes an `ImageFileError`.

    That is a file that is empty, no image, damaged, truncated or a decompression bomb. `strict` refuses also
    what shows beside the pixels only: wrong checksums in a PNG, comments longer than Pillow takes; and bombs
    even where Pillow's limit was lifted.
    """
    if not data:
        raise ImageFileError("is empty (0 bytes)")
    pil = pillow("Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide here
            data = data if strict else without_text(data)
            image = pil.open(io.BytesIO(data))
            if strict:
                _verify(pil, image, data)
            notes = []
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                notes.append(f"{image.n_frames} frames, took the first")
                image.seek(0)
            yield ImageFile(data, image, notes)
    except (ImageFileError, MemoryError):
        raise
    except pil.DecompressionBombError as error:
        raise ImageFileError(f"is refused as a decompression bomb: {error}") from error
    except pil.UnidentifiedImageError:
        raise ImageFileError("is not an image, corrupt, or of a format that Pillow does not know") from None
    # Pillow's decoders raise nearly anything on hostile bytes.
    except Exception as error:
        word = "truncated" if "truncated" in str(error).lower() else "damaged, corrupt or unsupported"
        raise ImageFileError(f"is {word}: {error or type(error).__name__}") from error


def _verify(pil: Any, image: Any, data: bytes) -> None:
    if image.width * image.height > _MOST_PIXELS and pil.MAX_IMAGE_PIXELS is None:
        raise ImageFileError(f"is refused as a decompression bomb: {image.width}x{image.height} pixels")
    if image.format == "PNG":
        pil.open(io.BytesIO(data)).verify()  # checksums, which load() does not look at


def has_alpha(image: Any) -> bool:
    """Tells whether Pillow's image may have transparent places, in whatever way."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def is_deep_grey(image: Any) -> bool:
    """Tells whether Pillow's image is of integers with more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;")


def samples(image: Any) -> np.ndarray:
    """Any mode of Pillow's as an array: palettes looked up, other colour spaces converted, alpha kept.

    Gives `[H, W, C]` of 1 channel (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8, deep grey uint16. An
    ImageFileError if the samples have no known range.
    """
    if image.mode == "F":
        raise ImageFileError("holds 32-bit float samples, whose range is not known")
    if is_deep_grey(image):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageFileError("holds 32-bit integer samples, whose range is not known")
        return values.astype(np.uint16)[..., None]
    grey = image.mode in ("1", "L", "LA", "La")
    if not has_alpha(image):
        image = image.convert("L" if grey else "RGB")
    elif image.mode != "LA":
        image = image.convert("RGBA").convert("LA" if grey else "RGBA")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors `[H, W, C]` as EXIF's orientation 1 to 8 says; anything else counts as 1."""
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
