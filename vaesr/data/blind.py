"""Photos made small by kernels that nobody is told: a set in the manner of DIV2KRK, of any photos."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from vaesr.data.bank import Bank
from vaesr.imaging import downsample, random_kernel


@dataclasses.dataclass(frozen=True)
class BlindPhoto:
    """A photo, what became of it, and by which kernel.

    Attributes:
        name: of the photo.
        x_hr: `[H, W, 3]` uint8, sides multiples of 2 scale.
        x_lr: `[H / scale, W / scale, 3]` uint8.
        kernel: float64 `[K, K]`, see `vaesr.imaging.random_kernel`.
    """

    name: str
    x_hr: np.ndarray
    x_lr: np.ndarray
    kernel: np.ndarray


def degrade(x_hr: np.ndarray, kernel: np.ndarray, scale: int) -> np.ndarray:
    """Blur and subsample `[H, W, C]` uint8 as `vaesr.imaging.downsample` does, rounded to 8 bits."""
    small = np.asarray(downsample(x_hr.astype(np.float32) / 255, kernel, scale))
    return np.clip(np.floor(small * 255 + 0.5), 0, 255).astype(np.uint8)


def blind_photo(
    name: str, pixels: np.ndarray, *, scale: int = 2, longest: int = 512, seed: int = 0, least: int = 128
) -> BlindPhoto | None:
    """Degrade the central crop of at most `longest` pixels a side of a photo `[H, W, C]` uint8.

    The kernel is drawn from `seed` and the photo's name. None where a side of the crop is below `least`.
    """
    height, width = (min(n, longest) // (2 * scale) * (2 * scale) for n in pixels.shape[:2])
    if min(height, width) < least:
        return None
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    x_hr = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    x_hr = np.repeat(x_hr, 3, axis=2) if x_hr.shape[2] == 1 else x_hr
    kernel = random_kernel(np.random.default_rng([seed, zlib.crc32(name.encode())]), scale=scale)
    return BlindPhoto(name, x_hr, degrade(x_hr, kernel, scale), kernel)


def blind_photos(
    bank: Bank, count: int, *, scale: int = 2, longest: int = 512, seed: int = 0
) -> list[BlindPhoto]:
    """The first `count` photos in colour of a bank, degraded: those of test first, then validation and train.

    A ValueError if there are fewer that are large enough.
    """
    found: list[BlindPhoto] = []
    for split in ("test", "validation", "train"):
        for index in bank.splits.get(split, ()):
            pixels = bank.image(int(index))
            grey = pixels.shape[2] == 1 or (pixels == pixels[..., :1]).all()
            photo = None if grey else blind_photo(
                bank.names[index], pixels, scale=scale, longest=longest, seed=seed
            )  # fmt: skip
            if photo is not None:
                found.append(photo)
            if len(found) == count:
                return found
    raise ValueError(
        f"data source {bank.spec!r} has {len(found)} photos in colour of 128x128 and more, not {count}"
    )
