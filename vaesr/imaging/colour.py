"""Every colour constant of the house, and BT.601 conversions as MATLAB has them: studio range and grey.

Matrices have a row for each channel that comes out. RGB is gamma-corrected where nothing else is said.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image

Array = jax.Array

# Luma over the full range; ITU-R BT.601, section 2.5.1.
BT601_LUMA = (0.299, 0.587, 0.114)
# MATLAB's rgb2gray: the first row of the inverse of its YIQ matrix, normalised.
MATLAB_LUMA = (0.298936021293775, 0.587043074451121, 0.114020904255103)
# RGB to YIQ as the authors of FSIM round it.
YIQ = (BT601_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
# RGB to the Gaussian colour model (Geusebroek et al. 2001) as the authors of VSI have it.
LMN = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))
# JPEG's YCbCr on the 8-bit scale, chroma around 0, there and back; ITU-T T.871 (JFIF), section 7.
RGB_TO_JFIF = (BT601_LUMA, (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
JFIF_TO_RGB = ((1, 0, 1.402), (1, -0.344136286, -0.714136286), (1, 1.772, 0))
# Linear sRGB to XYZ under D65 (IEC 61966-2-1, more digits by B. Lindbloom), and the white that the authors of
# SDSP take for it, which is D50's.
SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
D50_WHITE = (0.9642, 1.0, 0.8251)
# CIE 1976 L* + 16, a*, b* of the cube roots of XYZ over the white.
ROOTS_TO_LAB = ((0, 116, 0), (500, -500, 0), (0, 200, -200))

# Mean and deviation of RGB in [0, 1] over data sets: ImageNet's as torchvision's networks take them (LPIPS
# has the same on a scale from -1 to 1), and DIV2K's as EDSR subtracts it.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

# Y, Cb, Cr on the 8-bit scale from R, G, B in [0, 1]; ITU-R BT.601 as MATLAB rounds it.
_TO_YCBCR = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float64
)
_OFFSET = np.array([16.0, 128.0, 128.0])
_TO_RGB = np.linalg.inv(_TO_YCBCR)


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
    return _affine(_rgb(image, "rgb_to_grey"), np.array([MATLAB_LUMA]), np.zeros(1))


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
