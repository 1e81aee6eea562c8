"""Visual saliency: the SDSP map, and the visual saliency-induced index (VSI) that weighs by it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging import imresize
from vaesr.imaging.colour import D50_WHITE, LMN, ROOTS_TO_LAB, SRGB_TO_XYZ
from vaesr.metrics import filters
from vaesr.metrics.protocol import RGB, Protocol, prepare_colours

Array = jax.Array

_C1, _C2, _C3, _ALPHA, _BETA = 1.27, 386.0, 130.0, 0.40, 0.02
_SIDE, _SIGMA_F, _OMEGA, _SIGMA_D, _SIGMA_C = 256, 1.34, 0.021, 145.0, 0.001


def vsi(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB) -> Array:
    """Returns the visual saliency-induced index of each image.

    Similarity of saliency, of Scharr gradients and of two chroma channels, pooled by the larger saliency;
    images are first averaged over squares of max(1, round(shorter side / 256)) pixels. Equals the authors'
    `VSI.m` at every size; piq and pyiqa resize otherwise (up to 0.002 away at 512 pixels).

    Args:
        reference: `[B, H, W, C]` floating-point images of 1 or 3 channels in [0, `protocol.data_range`]; grey
            ones count as three equal channels.
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared.

    Returns:
        `[B]` float32; 1 for identical images, and where neither image has anything salient.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, 1 or 3]`, or fewer than 8 pixels a side remain.

    Source: Zhang, Shen and Li, "VSI: A Visual Saliency-Induced Index for Perceptual Image Quality
      Assessment", 2014, equation 9.
    """
    return _vsi(*prepare_colours(reference, distorted, protocol, function="vsi", minimum=8))


@jax.jit
def _vsi(x: Array, y: Array) -> Array:
    """VSI `[B]` of maps `[B, 3, H, W]` whose white is 1."""
    both = 255.0 * jnp.concatenate([x, y])
    factor = filters.downsampling_factor(*both.shape[-2:])
    lmn = [sum(weight * both[:, i] for i, weight in enumerate(row)) for row in LMN]
    maps = jnp.stack([sdsp(both), *lmn])
    saliency, luma, m, n = filters.box_downsample(maps, factor, mode="constant")
    gradient = filters.gradient_magnitude(luma, (3.0, 10.0, 3.0), 1 / 16)
    pairs = [jnp.split(maps, 2) for maps in (saliency, gradient, m, n)]
    constants = (_C1, _C2, _C3, _C3)
    salient, edges, chroma_m, chroma_n = (
        filters.similarity(a, b, c) for (a, b), c in zip(pairs, constants, strict=True)
    )
    similar = salient * filters.safe_power(edges, _ALPHA) * filters.real_power(chroma_m * chroma_n, _BETA)
    return filters.weighted_mean(similar, jnp.maximum(*pairs[0]))


def sdsp(image: Array) -> Array:
    """Saliency by simple priors: band-passed colour, nearness to the centre, warmth.

    Of RGB `[N, 3, H, W]` on the 8-bit scale, `[N, H, W]` in [0, 1]; 0 of flat images.

    Source: Zhang, Gu and Li, "SDSP: A Novel Saliency Detection Method by Combining Simple Priors", 2013.
    """
    height, width = image.shape[-2:]
    small = _resize(image, _SIDE, _SIDE)
    lab = _lab(small)
    # The filter is 0 at frequency 0: without the mean, flat images are exactly 0.
    spectrum = jnp.fft.rfft2(lab - jax.lax.stop_gradient(lab.mean(axis=(-2, -1), keepdims=True)))
    passed = jnp.fft.irfft2(spectrum * jnp.asarray(_band_pass())[None, None], s=(_SIDE, _SIDE))
    frequency = filters.safe_sqrt(jnp.square(passed).sum(axis=1))
    warm = sum(jnp.square(_unit_range(lab[:, i])) for i in (1, 2))
    warmth = 1 - jnp.exp(-warm / _SIGMA_C**2)
    # Centre (128, 128), counted from 1.
    distance = np.arange(1, _SIDE + 1) - _SIDE / 2
    centre = np.exp(-(distance[:, None] ** 2 + distance**2) / _SIGMA_D**2).astype(np.float32)
    return _unit_range(_resize(frequency * jnp.asarray(centre)[None] * warmth, height, width))


def _resize(maps: Array, height: int, width: int) -> Array:
    """MATLAB's bilinear `imresize` of maps `[N, H, W]` or `[N, C, H, W]`."""
    images = jnp.moveaxis(maps, 1, -1) if maps.ndim == 4 else maps[..., None]
    small = imresize(images, size=(height, width), method="bilinear")
    return jnp.moveaxis(small, -1, 1) if maps.ndim == 4 else small[..., 0]


def _unit_range(maps: Array) -> Array:
    """Each map from 0 to 1; a flat one becomes 0."""
    least, most = (reduce(maps, axis=(-2, -1), keepdims=True) for reduce in (jnp.min, jnp.max))
    return filters.safe_divide(maps - least, most - least)


def _lab(image: Array) -> Array:
    """CIELAB `[N, 3, H, W]` of sRGB `[N, 3, H, W]` on the 8-bit scale."""
    x = image / 255.0
    # Powers by exp and log, which XLA vectorises on CPUs; pow and cbrt take ten times as long.
    power = lambda base, exponent: jnp.exp(exponent * jnp.log(base))  # noqa: E731
    linear = jnp.where(x > 0.04045, power((jnp.maximum(x, 0.04045) + 0.055) / 1.055, 2.4), x / 12.92)
    # Products of matrices: in one loop with its sums XLA would compute each power three times.
    t = _mix(np.asarray(SRGB_TO_XYZ) / np.asarray(D50_WHITE)[:, None], linear)
    f = jnp.where(t > 0.008856, power(jnp.maximum(t, 0.008856), 1 / 3), (903.3 * t + 16) / 116)
    shift = np.asarray([16.0, 0.0, 0.0], np.float32).reshape(1, 3, 1, 1)
    return _mix(np.asarray(ROOTS_TO_LAB), f) - shift


def _mix(matrix: np.ndarray, image: Array) -> Array:
    """Channels `[N, 3, H, W]` mixed by a matrix `[3, 3]`."""
    # One small product an image: its result lies in memory as the FFT wants it.
    # Adding zeros of the images' spreads the matrix over devices as they are; `zeros_like` forgets how, where
    # no mesh is set.
    zeros = 0 * jax.lax.stop_gradient(image[:, :, 0, :1])
    weights = jnp.asarray(matrix, jnp.float32)[None] + zeros
    rows = image.reshape(*image.shape[:2], -1)
    return jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST).reshape(image.shape)


@functools.lru_cache(maxsize=1)
def _band_pass() -> np.ndarray:
    """The log-Gabor filter `[256, 129]` in the order of `rfft2`; 0 at frequency 0 and beyond half a cycle."""
    v, u = np.fft.fftfreq(_SIDE)[:, None], np.abs(np.fft.rfftfreq(_SIDE))[None]
    radius = np.hypot(u, v)
    inside = (radius > 0) & (radius <= 0.5)
    bands = np.exp(-(np.log(np.where(inside, radius, 1.0) / _OMEGA) ** 2) / (2 * _SIGMA_F**2))
    return np.where(inside, bands, 0.0).astype(np.float32)
