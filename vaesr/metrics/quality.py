"""Full-reference image quality: PSNR, SSIM and MS-SSIM."""

import functools
from typing import NamedTuple

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
    return _psnr(*prepare(reference, distorted, protocol, function="psnr"))


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
    return _ssim(*prepare_maps(reference, distorted, protocol, function="ssim", minimum=_WINDOW), downsample)


@functools.partial(jax.jit, static_argnums=2)
def _ssim(x: Array, y: Array, downsample: bool) -> Array:
    """Mean SSIM `[B]` of maps `[B, C, H, W]` whose white is 1."""
    x, y = _smaller(x, y, downsample)
    luminance, structure = similarity_maps(x, y, _K1**2, _K2**2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _smaller(x: Array, y: Array, downsample: bool) -> tuple[Array, Array]:
    if not downsample:
        return x, y
    factor = filters.downsampling_factor(x.shape[-2], x.shape[-1])
    x, y = (filters.box_downsample(i, factor, mode="symmetric") for i in (x, y))
    return x, y


class SsimComponents(NamedTuple):
    """What SSIM is the product of, at every position of the window: float32 maps `[B, H - 10, W - 10, C]`.

    Attributes:
        luminance: likeness of the means, in [0, 1] for images that are nowhere negative.
        contrast: likeness of the standard deviations, in (0, 1].
        structure: correlation, in [-1, 1].
    """

    luminance: Array
    contrast: Array
    structure: Array


def ssim_components(
    reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB, downsample: bool = False
) -> SsimComponents:
    """Returns SSIM's three comparisons: luminance, contrast and structure.

    Their product, averaged over positions and channels, is `ssim` of the same arguments; the product of their
    means is not. Each tells what a distortion changes: another brightness only the first, blur the second and
    third, noise mostly the third.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared, as in `ssim`.
        downsample: as in `ssim`; the maps are as much smaller.

    Returns:
        Three maps; of identical images all are 1.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 11 pixels per side remain.

    Source: Wang et al. 2004, equations 6, 9 and 10, with C3 = C2 / 2.
    """
    maps = prepare_maps(reference, distorted, protocol, function="ssim_components", minimum=_WINDOW)
    return _ssim_components(*maps, downsample)


@functools.partial(jax.jit, static_argnums=2)
def _ssim_components(x: Array, y: Array, downsample: bool) -> SsimComponents:
    x, y = _smaller(x, y, downsample)
    (mean_x, mean_y), (variance_x, variance_y), covariance = _moments(x, y)
    c1, c2 = _K1**2, _K2**2
    # Where one image is flat the deviations' product is 0, and so is its slope.
    square = jnp.maximum(variance_x, 0.0) * jnp.maximum(variance_y, 0.0)
    flat = square == 0.0
    product = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square)))
    found = (
        filters.similarity(mean_x, mean_y, c1),  # equation 6
        (2 * product + c2) / (variance_x + variance_y + c2),  # equation 9
        (covariance + c2 / 2) / (product + c2 / 2),  # equation 10
    )
    return SsimComponents(*(jnp.moveaxis(i, 1, -1) for i in found))


def _centred(x: Array) -> tuple[Array, Array]:
    """Each map's mean, and the map less its mean.

    Variances do not depend on the origin: measuring each image from its own mean keeps float32's
    E[x^2] - E[x]^2 from cancelling in flat areas.
    """
    mean = jax.lax.stop_gradient(jnp.mean(x, axis=(-2, -1), keepdims=True))
    return mean, x - mean


def _moments(x: Array, y: Array) -> tuple[tuple[Array, Array], tuple[Array, Array], Array]:
    """Means, variances and covariance under the window, of maps `[..., H, W]`."""
    (mean_x, u), (mean_y, v) = _centred(x), _centred(y)
    maps = jnp.stack([u, v, u * u, v * v, u * v])
    mean_u, mean_v, square_u, square_v, product = filters.separable(maps, _GAUSSIAN, _GAUSSIAN)
    variances = square_u - mean_u * mean_u, square_v - mean_v * mean_v
    return (mean_u + mean_x, mean_v + mean_y), variances, product - mean_u * mean_v


def similarity_maps(x: Array, y: Array, c1: float, c2: float) -> tuple[Array, Array]:
    """SSIM's luminance term and its contrast-structure term, where the window lies inside.

    Of maps `[..., H, W]`, both `[..., H - 10, W - 10]`; `c1` is the luminance term's constant, (K1 L)^2, `c2`
    the other's.
    """
    (mean_x, u), (mean_y, v) = _centred(x), _centred(y)
    maps = jnp.stack([u, v, u * u + v * v, u * v])  # one filter fewer than `_moments`
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
    return _ms_ssim(*prepare_maps(reference, distorted, protocol, function="ms_ssim", minimum=161))


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
