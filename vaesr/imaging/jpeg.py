"""JPEG's losses as image maths: what baseline JPEG at a quality makes of an image, without any file."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import check_rank
from vaesr.imaging.colour import JFIF_TO_RGB, RGB_TO_JFIF
from vaesr.imaging.resize import imresize

Array = jax.Array

# Annex K.1 of the standard (ITU-T T.81), which libjpeg scales by the quality.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92], [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)  # fmt: skip
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_HIGHEST = jax.lax.Precision.HIGHEST


def _cosines() -> np.ndarray:
    """The orthonormal DCT-II of 8 samples: coefficients = matrix @ samples."""
    n = np.arange(8)
    matrix = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


_DCT = _cosines()


def jpeg(image: ArrayLike, quality: ArrayLike, *, subsample: bool = True) -> Array:
    """Compresses and decompresses images as JPEG does.

    Colours are transformed, chroma is halved (4:2:0), 8x8 blocks go through the DCT and are rounded to
    multiples of the quantisation tables of libjpeg's quality. The gradient takes every rounding as the
    identity. libjpeg's integer arithmetic differs by less than one level on average.

    Args:
        image: `[B, H, W, 3]` RGB in [0, 1], any size.
        quality: `[B]` or a scalar in [1, 100]; may be traced.
        subsample: halve the chroma, as libjpeg does by default.

    Returns:
        float32 `[B, H, W, 3]` on the 8-bit grid in [0, 1].

    Raises:
        ValueError: if the image is no batch of RGB images, or the qualities don't fit it.

    Source: ITU-T T.81; libjpeg's `jpeg_quality_scaling`.
    """
    check_rank(image, function="jpeg")
    x = jnp.asarray(image, jnp.float32)
    if x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"jpeg: image has shape {x.shape}; expected [B, H, W, 3].")
    q = jnp.asarray(quality, jnp.float32)
    if q.shape not in ((), (x.shape[0],)):
        raise ValueError(f"jpeg: quality has shape {q.shape}; expected () or [{x.shape[0]}].")
    q = jnp.broadcast_to(q, x.shape[:1])
    _, height, width, _ = x.shape
    step = 16 if subsample else 8
    up = [-height % step, -width % step]
    x = jnp.pad(x, ((0, 0), (0, up[0]), (0, up[1]), (0, 0)), mode="edge") if any(up) else x
    ycc = _round(_colours(_round(x * 255), RGB_TO_JFIF)) - jnp.asarray([128.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    luma, chroma = ycc[..., :1], ycc[..., 1:]
    if subsample:
        corners = [chroma[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        chroma = _round((corners[0] + corners[1] + corners[2] + corners[3]) / 4)
    luma, chroma = _quantise(luma, q, _LUMA), _quantise(chroma, q, _CHROMA)
    if subsample:
        chroma = imresize(chroma, 2, method="bilinear")  # libjpeg's "fancy upsampling"
    rgb = _colours(jnp.concatenate([luma + 128, chroma], axis=-1), JFIF_TO_RGB)
    return _round(jnp.clip(rgb, 0, 255))[:, :height, :width] / 255


def _colours(x: Array, matrix: tuple[tuple[float, ...], ...]) -> Array:
    return jnp.einsum("bhwc,dc->bhwd", x, jnp.asarray(matrix, jnp.float32), precision=_HIGHEST)


def _tables(quality: Array, table: np.ndarray) -> Array:
    """libjpeg's tables for qualities `[B]`: `[B, 8, 8]`."""
    quality = jnp.clip(jnp.floor(quality), 1, 100)
    # Whole numbers: 5000 / quality is an integer division.
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    scaled = jnp.floor((jnp.asarray(table)[None] * percent[:, None, None] + 50) / 100)
    return jnp.clip(scaled, 1, 255)


def _quantise(x: Array, quality: Array, table: np.ndarray) -> Array:
    """Every 8x8 block to the nearest multiples of the table in the frequency domain, and back."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 8, 8, width // 8, 8, channels)
    dct = jnp.asarray(_DCT)
    frequencies = jnp.einsum("ui,bhiwjc,vj->bhuwvc", dct, blocks, dct, precision=_HIGHEST)
    steps = _tables(quality, table)[:, None, :, None, :, None]
    frequencies = _round(frequencies / steps) * steps
    blocks = jnp.einsum("ui,bhuwvc,vj->bhiwjc", dct, frequencies, dct, precision=_HIGHEST)
    return _round(blocks).reshape(x.shape)


def _round(x: Array) -> Array:
    """Rounds, with the identity as gradient."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)
