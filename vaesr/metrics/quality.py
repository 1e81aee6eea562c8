"""Full-reference image quality: PSNR, SSIM and MS-SSIM."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.metrics import filters
from vaesr.metrics.protocol import GREY, RGB, Protocol, prepare, prepare_maps

Array = jax.Array

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03

_GAUSSIAN = filters.gaussian_taps(_WINDOW, _SIGMA)
# Wang, Simoncelli and Bovik 2003, section 3.2: from the finest scale to the coarsest.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


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
    return _psnr(x, y)


@jax.jit
def _psnr(x: Array, y: Array) -> Array:
    """PSNR `[B]` of images `[B, H, W, C]` whose white is 1."""
    mse = jnp.mean(jnp.square(x - y), axis=(1, 2, 3))
    same = mse == 0.0
    return jnp.where(same, jnp.inf, -10.0 * jnp.log10(jnp.where(same, 1.0, mse)))


def ssim(
    reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB, downsample: bool = False
) -> Array:
    """Returns the structural similarity of each image.

    11x11 Gaussian window with sigma 1.5, only windows that lie inside the image, population covariance, K =
    (0.01, 0.03), averaged over positions and channels. Without downsampling this equals scikit-image with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False` and the SR papers' figures. The authors'
    `ssim.m` is `protocol=MATLAB_GREY, downsample=True`: as much as 0.08 higher on large images.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default all channels and pixels, unquantised, with white at 1.
        downsample: average squares of max(1, round(shorter side / 256)) pixels first.

    Returns:
        `[B]` float32 in [-1, 1]; 1 for identical images.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 11 pixels per side remain.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004,
      equation 13.
    """
    x, y = prepare_maps(reference, distorted, protocol, function="ssim", minimum=_WINDOW)
    return _ssim(x, y, downsample)


@functools.partial(jax.jit, static_argnums=2)
def _ssim(x: Array, y: Array, downsample: bool) -> Array:
    """Mean SSIM `[B]` of maps `[B, C, H, W]` whose white is 1."""
    if downsample:
        factor = filters.downsampling_factor(x.shape[-2], x.shape[-1])
        x, y = (filters.box_downsample(i, factor, mode="symmetric") for i in (x, y))
    luminance, structure = similarity_maps(x, y, _K1**2, _K2**2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def similarity_maps(x: Array, y: Array, c1: float, c2: float) -> tuple[Array, Array]:
    """SSIM's luminance term and its contrast-structure term, where the window lies inside.

    Args:
        x: maps `[..., H, W]`.
        y: maps of the same shape.
        c1: constant of the luminance term, (K1 L)^2.
        c2: constant of the other.

    Returns:
        Two maps `[..., H - 10, W - 10]`.
    """
    # Variances do not depend on the origin: measuring each image from its own mean keeps float32's
    # E[x^2] - E[x]^2 from cancelling in flat areas.
    mean_x, mean_y = (jax.lax.stop_gradient(jnp.mean(i, axis=(-2, -1), keepdims=True)) for i in (x, y))
    u, v = x - mean_x, y - mean_y
    maps = jnp.stack([u, v, u * u + v * v, u * v])
    mean_u, mean_v, square, product = filters.separable(maps, _GAUSSIAN, _GAUSSIAN)
    variances = square - mean_u * mean_u - mean_v * mean_v  # sigma_x^2 + sigma_y^2: only the sum is needed
    covariance = product - mean_u * mean_v
    luminance = filters.similarity(mean_u + mean_x, mean_v + mean_y, c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def ms_ssim(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = GREY) -> Array:
    """Returns the multi-scale structural similarity of each image.

    Contrast and structure at five scales, each half as large as the one before, and luminance at the last;
    the terms are averaged over positions, raised to (0.0448, 0.2856, 0.3001, 0.2363, 0.1333) and multiplied.
    With `protocol=MATLAB_GREY` this is the authors' `msssim.m`. Common packages measure every channel of RGB
    images instead (`protocol=RGB`: up to 0.045 lower) and pad or crop odd sizes otherwise.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default grey.

    Returns:
        `[B]` float32 in [0, 1]; 1 for identical images. A negative mean counts as 0 (where `msssim.m` turns
        complex).

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 161 pixels per side remain.

    Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment",
      2003, equation 7.
    """
    # The coarsest scale must hold one window: ceil(161 / 16) = 11.
    x, y = prepare_maps(reference, distorted, protocol, function="ms_ssim", minimum=161)
    return _ms_ssim(x, y)


@jax.jit
def _ms_ssim(x: Array, y: Array) -> Array:
    score = jnp.ones(x.shape[:2], jnp.float32)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            x, y = (filters.box_downsample(i, 2, mode="symmetric") for i in (x, y))
        luminance, structure = similarity_maps(x, y, _K1**2, _K2**2)
        term = luminance * structure if scale == len(_SCALE_WEIGHTS) - 1 else structure
        score = score * filters.safe_power(term.mean(axis=(-2, -1)), weight)
    return score.mean(axis=-1)
