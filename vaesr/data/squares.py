"""What is done to images before they are packed: squares of one size, fewer bits."""

from __future__ import annotations

import dataclasses

import numpy as np

from vaesr.files.extras import pillow


@dataclasses.dataclass(frozen=True)
class Square:
    """Cut, and resized by averaging (PIL's bilinear filter).

    `side` is that of the result in pixels, 0 leaves images as they are; `margins` are cut off first, at the
    left, top, right and bottom; of what is left the central square is taken. Of fewer `bits` than 8 the
    highest remain, spread over 0 to 255 again.
    """

    side: int
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    bits: int = 8

    def __post_init__(self) -> None:
        if self.side < 0 or min(self.margins) < 0 or len(self.margins) != 4 or not 1 <= self.bits <= 8:
            raise ValueError(
                "side must be at least 0, margins four of at least 0 and bits from 1 to 8, got "
                f"{self.side}, {self.margins} and {self.bits}"
            )

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Images `[n, H, W, C]` uint8 as `[n, side, side, C]`; a ValueError where margins leave nothing."""
        cut = self._cut(images) if self.side else images
        if self.bits == 8:
            return cut
        levels = cut >> (8 - self.bits)
        return np.rint(levels * (255 / (2**self.bits - 1))).astype(np.uint8)

    def _cut(self, images: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.margins
        _, height, width, _ = images.shape
        rows, columns = height - top - bottom, width - left - right
        if min(rows, columns) < 1:
            raise ValueError(f"margins {self.margins} leave nothing of an image of {width}x{height}")
        edge = min(rows, columns)
        first_row, first_column = top + (rows - edge) // 2, left + (columns - edge) // 2
        cut = images[:, first_row : first_row + edge, first_column : first_column + edge]
        if edge == self.side:
            return cut
        return np.stack([self._resize(image) for image in cut])

    def _resize(self, image: np.ndarray) -> np.ndarray:
        pil = pillow("Image")
        if image.shape[2] not in (1, 3, 4):  # of no kind that Pillow knows
            return np.concatenate([self._resize(part) for part in np.split(image, image.shape[2], 2)], axis=2)
        grey = image.shape[2] == 1
        picture = pil.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
        resized = np.asarray(picture.resize((self.side, self.side), pil.Resampling.BILINEAR))
        return resized[..., None] if grey else resized
