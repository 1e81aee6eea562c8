"""BT.601 colour conversions as MATLAB has them: studio range, which every SR benchmark uses, and grey."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image

Array = jax.Array

# Rows give Y, Cb, Cr on the 8-bit scale from R, G, B in [0, 1]; ITU-R BT.601 as MATLAB rounds it.
_TO_YCBCR = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float64
)
_OFFSET = np.array([16.0, 128.0, 128.0])
_TO_RGB = np.linalg.inv(_TO_YCBCR)
# MATLAB's rgb2gray: the first row of the inverse of its YIQ matrix, normalised.
_TO_GREY = np.array([[0.298936021293775, 0.587043074451121, 0.114020904255103]])


def rgb_to_y(image: ArrayLike) -> Array:
    """Returns the BT.601 studio luma of RGB images: black is 16/255 and white is 235/255.

    Args:
        image: `[..., 3]` floating-point RGB in [0, 1].

    Returns:
        `[..., 1]` float32 in [16/255, 235/255]; multiply by 255 for the usual 8-bit scale.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the last axis is not RGB.

    Source: ITU-R BT.601; Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255.
    """
    return _affine(_rgb(image, "rgb_to_y"), _TO_YCBCR[:1] / 255.0, _OFFSET[:1] / 255.0)


def rgb_to_grey(image: ArrayLike) -> Array:
    """Returns MATLAB's `rgb2gray` of RGB images: luma over the full range.

    Args:
        image: `[..., 3]` floating-point RGB in [0, 1].

    Returns:
        `[..., 1]` float32 in [0, 1].

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the last axis is not RGB.

    Source: ITU-R BT.601; MATLAB `rgb2gray`.
    """
    return _affine(_rgb(image, "rgb_to_grey"), _TO_GREY, np.zeros(1))


def rgb_to_ycbcr(image: ArrayLike) -> Array:
    """Converts RGB images to BT.601 studio Y, Cb, Cr.

    Args:
        image: `[..., 3]` floating-point RGB in [0, 1].

    Returns:
        `[..., 3]` float32: Y in [16, 235]/255, Cb and Cr in [16, 240]/255 with neutral grey at 128/255.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the last axis is not RGB.

    Source: ITU-R BT.601; MATLAB `rgb2ycbcr`.
    """
    return _affine(_rgb(image, "rgb_to_ycbcr"), _TO_YCBCR / 255.0, _OFFSET / 255.0)


def ycbcr_to_rgb(image: ArrayLike) -> Array:
    """Converts BT.601 studio Y, Cb, Cr to RGB; the inverse of `rgb_to_ycbcr`.

    Args:
        image: `[..., 3]` floating-point Y, Cb, Cr as `rgb_to_ycbcr` returns them.

    Returns:
        `[..., 3]` float32 RGB, in [0, 1] for colours that exist in RGB; not clipped.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the last axis has not three channels.

    Source: ITU-R BT.601; MATLAB `ycbcr2rgb`.
    """
    return _affine(_rgb(image, "ycbcr_to_rgb"), _TO_RGB * 255.0, -_TO_RGB @ _OFFSET)


def _rgb(image: ArrayLike, function: str) -> Array:
    x = as_float_image(image, function=function, minimum_rank=1)
    if x.shape[-1] != 3:
        raise ValueError(f"{function} takes three channels in the last axis, but was given shape {x.shape}.")
    return x


def _affine(x: Array, matrix: np.ndarray, offset: np.ndarray) -> Array:
    """Returns `matrix @ x + offset` over the last axis, without a matrix product that could round to TF32."""
    planes = [x[..., i] for i in range(3)]
    rows = [
        sum((float(w) * p for w, p in zip(row, planes, strict=True)), start=jnp.float32(shift))
        for row, shift in zip(matrix, offset, strict=True)
    ]
    return jnp.stack(rows, axis=-1)
