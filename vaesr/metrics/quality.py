"""Full-reference image quality: PSNR and SSIM."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.metrics.protocol import RGB, Protocol, prepare

Array = jax.Array

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03

# The window is a banded matrix product per axis up to this length and a sum of shifted images above it.
# Measured on 2 CPU cores (jax 0.10.2, ms of the four maps, forward / gradient, matrix against shifts):
#   16 x 48x48: 1.1/1.9 against 2.2/47     512x512: 88/170 against 39/2000
# One-channel convolutions took 600/1150 at 512x512.
_DENSE_MAX_LENGTH = 512


def psnr(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB) -> Array:
    """Returns the peak signal-to-noise ratio of each image in decibels.

    10 log10(peak^2 / MSE), with the mean over all pixels and compared channels of one image. (Slides that
    write 10 log10(peak / MSE) lack the square; with a peak of 255 they read 24 dB lower.) Under protocol "y"
    the peak is 255 on the scale where white is 235, the convention of SR papers. Grey benchmark figures,
    such as scikit-image's `camera`, come from passing the one-channel image under the same protocol.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default all channels and pixels, unquantised, with white at 1.

    Returns:
        `[B]` float32, in dB. Identical images give +inf, with a gradient of zero, so that one perfect image
        does not turn a batch's gradient into NaN. NaN pixels give NaN.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or nothing remains after shaving.

    Source: published SR protocols; see `SR_BENCHMARK` and `DIV2K_VALIDATION`.
    """
    x, y = prepare(reference, distorted, protocol, function="psnr")
    mse = jnp.mean(jnp.square(x - y), axis=(1, 2, 3))
    same = mse == 0.0
    return jnp.where(same, jnp.inf, -10.0 * jnp.log10(jnp.where(same, 1.0, mse)))


def ssim(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB) -> Array:
    """Returns the structural similarity of each image.

    11x11 Gaussian window with sigma 1.5, only windows that lie inside the image, population covariance, K =
    (0.01, 0.03), averaged over positions and channels; no automatic downsampling. This equals scikit-image
    with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False` and the SR papers' figures.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default all channels and pixels, unquantised, with white at 1.

    Returns:
        `[B]` float32 in [-1, 1]; 1 for identical images.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 11 pixels per side remain.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004,
      equation 13.
    """
    x, y = prepare(reference, distorted, protocol, function="ssim", minimum=_WINDOW)
    return _ssim(x, y)


@jax.jit
def _ssim(x: Array, y: Array) -> Array:
    """Returns the mean SSIM `[B]` of `[B, H, W, C]` images whose white is 1."""
    # Variances do not depend on the origin: measuring each image from its own mean keeps float32's
    # E[x^2] - E[x]^2 from cancelling in flat areas.
    mean_x, mean_y = (jax.lax.stop_gradient(jnp.mean(i, axis=(1, 2, 3), keepdims=True)) for i in (x, y))
    u, v = x - mean_x, y - mean_y
    mean_u, mean_v, square, product = _blur(jnp.stack([u, v, u * u + v * v, u * v]))
    variances = square - mean_u * mean_u - mean_v * mean_v  # sigma_x^2 + sigma_y^2: only the sum is needed
    covariance = product - mean_u * mean_v
    mean_x, mean_y = mean_u + mean_x, mean_v + mean_y
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x * mean_x + mean_y * mean_y + _K1**2)
    structure = (2 * covariance + _K2**2) / (variances + _K2**2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _blur(maps: Array) -> Array:
    """Filters `[..., B, H, W, C]` with the Gaussian window where it lies inside the image."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    taps /= taps.sum()
    for axis, equation in ((-3, "oh,...hwc->...owc"), (-2, "ow,...hwc->...hoc")):
        length = maps.shape[axis] - _WINDOW + 1
        if maps.shape[axis] <= _DENSE_MAX_LENGTH:
            rows = np.arange(length)[:, None]
            matrix = np.zeros((length, maps.shape[axis]), np.float32)
            matrix[rows, rows + np.arange(_WINDOW)] = taps
            maps = jnp.einsum(equation, matrix, maps, precision=jax.lax.Precision.HIGHEST)
        else:
            parts = [jax.lax.slice_in_dim(maps, i, i + length, axis=axis + maps.ndim) for i in range(_WINDOW)]
            maps = functools.reduce(operator.add, [float(w) * m for w, m in zip(taps, parts, strict=True)])
    return maps
