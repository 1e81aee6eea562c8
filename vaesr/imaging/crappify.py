"""Crappification: good photos made small, marked and badly compressed, to learn the way back."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging.digits import draw_number
from vaesr.imaging.jpeg import jpeg
from vaesr.imaging.resize import imresize

QUALITIES = (10, 70)
"""The least and the greatest JPEG quality of fastai's course."""


def crappify(
    image: ArrayLike,
    quality: ArrayLike,
    top: ArrayLike,
    left: ArrayLike,
    *,
    scale: int = 4,
    text: bool = True,
) -> jax.Array:
    """Shrinks images bilinearly, writes their JPEG quality on them in white, and compresses them with it.

    Args:
        image: `[B, H, W, 3]` RGB in [0, 1], sides multiples of `scale`.
        quality: `[B]` integers, JPEG qualities; fastai's are 10 to 70.
        top: `[B]` integers, the row of the text's upper left corner in the small image.
        left: `[B]` integers, its column.
        scale: by which the image is shrunk, at least 1.
        text: whether the quality is written.

    Returns:
        float32 `[B, H / scale, W / scale, 3]` on the 8-bit grid.

    Raises:
        ValueError: if the shapes don't fit.

    Source: fastai's course v3, lesson 7, `crappify`.
    """
    small = jnp.asarray(image, jnp.float32)
    if small.ndim != 4 or any(n % scale for n in small.shape[1:3]):
        raise ValueError(
            f"crappify: image has shape {small.shape}; expected [B, H, W, 3], sides multiples of {scale}."
        )
    small = imresize(small, 1 / scale, method="bilinear") if scale > 1 else small
    small = draw_number(small, quality, top, left) if text else small
    return jpeg(small, quality)
