"""Feature similarity by phase congruency: FSIM and FSIMc."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging.colour import YIQ
from vaesr.metrics import filters
from vaesr.metrics.protocol import RGB, Protocol, prepare_colours

Array = jax.Array

_SCALES, _ORIENTATIONS = 4, 4
_SHORTEST_WAVE, _WAVE_FACTOR, _SIGMA_ON_F, _ANGLE_ON_SIGMA = 6.0, 2.0, 0.55, 1.2
_NOISE_DEVIATIONS, _NOISE_DIVISOR, _EPSILON = 2.0, 1.7, 1e-4
_T1, _T2, _T3, _T4, _LAMBDA = 0.85, 160.0, 200.0, 200.0, 0.03


def fsim(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB) -> Array:
    """Returns the feature similarity of each image's luma.

    Phase congruency (4 scales, 4 orientations) and Scharr gradients of the image, which is first averaged
    over squares of max(1, round(shorter side / 256)) pixels, compared point by point and pooled by the larger
    phase congruency. Equals the authors' `FeatureSIM.m`.

    Args:
        reference: `[B, H, W, C]` floating-point images of 1 or 3 channels in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; the luma of RGB images is the metric's own.

    Returns:
        `[B]` float32 in (0, 1]; 1 for identical images, and where neither image has any feature.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, 1 or 3]`, or fewer than 8 pixels a side remain.

    Source: Zhang et al., "FSIM: A Feature Similarity Index for Image Quality Assessment", 2011, equation 8.
    """
    return _fsim(*prepare_colours(reference, distorted, protocol, function="fsim", minimum=8), False)


def fsimc(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = RGB) -> Array:
    """Returns the feature similarity of each image with its colour: FSIM and the similarity of I and Q.

    Args:
        reference: `[B, H, W, C]` floating-point images of 1 or 3 channels in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared.

    Returns:
        `[B]` float32 in [-1, 1]; 1 for identical images; of grey images `fsim`.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, 1 or 3]`, or fewer than 8 pixels a side remain.

    Source: Zhang et al., "FSIM: A Feature Similarity Index for Image Quality Assessment", 2011, equation 12.
    """
    return _fsim(*prepare_colours(reference, distorted, protocol, function="fsimc", minimum=8), True)


@functools.partial(jax.jit, static_argnums=2)
def _fsim(x: Array, y: Array, colour: bool) -> Array:
    """FSIM or FSIMc `[B]` of maps `[B, 3, H, W]` whose white is 1."""
    factor = filters.downsampling_factor(*x.shape[-2:])

    def plane(image: Array, row: tuple[float, ...]) -> Array:
        mixed = functools.reduce(operator.add, [255.0 * weight * image[:, i] for i, weight in enumerate(row)])
        return filters.box_downsample(mixed, factor, mode="constant")

    luma = plane(jnp.concatenate([x, y]), YIQ[0])
    congruency, scharr = phase_congruency(luma), filters.gradient_magnitude(luma, (3.0, 10.0, 3.0), 1 / 16)
    (pc_x, pc_y), (g_x, g_y) = (jnp.split(maps, 2) for maps in (congruency, scharr))
    similar = filters.similarity(pc_x, pc_y, _T1) * filters.similarity(g_x, g_y, _T2)
    if colour:
        i, q = (
            filters.similarity(plane(x, row), plane(y, row), t)
            for row, t in zip(YIQ[1:], (_T3, _T4), strict=True)
        )
        similar = similar * filters.real_power(i * q, _LAMBDA)
    return filters.weighted_mean(similar, jnp.maximum(pc_x, pc_y))


def phase_congruency(image: Array) -> Array:
    """Kovesi's phase congruency as FSIM uses it, with the noise estimated from the smallest scale's median.

    Of maps `[N, H, W]` on the 8-bit scale, in [0, 1]; 0 where nothing is but flat.
    """
    radial, angular, noise = _bank(*image.shape[-2:])
    # The filters are 0 at frequency 0: without the mean, flat images are exactly 0.
    spectrum = jnp.fft.fft2(image - jax.lax.stop_gradient(image.mean(axis=(-2, -1), keepdims=True)))
    energy, amplitude = jnp.zeros_like(image), jnp.zeros_like(image)
    for orientation in range(_ORIENTATIONS):
        one = functools.partial(_orientation, noise=tuple(noise[orientation]))
        found = one(spectrum, jnp.asarray(radial * angular[orientation])[None])
        energy, amplitude = energy + found[0], amplitude + found[1]
    return filters.safe_divide(energy, amplitude)


def _orientation(spectrum: Array, bank: Array, noise: tuple[float, float]) -> tuple[Array, Array]:
    """Energy above the noise and sum of amplitudes `[N, H, W]` of one orientation; `bank` `[1, S, H, W]`."""
    response = jnp.fft.ifft2(spectrum[:, None] * bank)
    # Scale by scale: XLA's sums over an axis before the last two take ten times as long on CPUs.
    parts = [response[:, scale] for scale in range(_SCALES)]
    evens, odds = [part.real for part in parts], [part.imag for part in parts]
    squares = [even * even + odd * odd for even, odd in zip(evens, odds, strict=True)]
    add = functools.partial(functools.reduce, operator.add)
    amplitude, sum_even, sum_odd = add([filters.safe_sqrt(s) for s in squares]), add(evens), add(odds)
    length = filters.safe_sqrt(sum_even**2 + sum_odd**2)
    mean_even, mean_odd = sum_even / (length + _EPSILON), sum_odd / (length + _EPSILON)
    across = add([jnp.abs(e * mean_odd - o * mean_even) for e, o in zip(evens, odds, strict=True)])
    energy = sum_even * mean_even + sum_odd * mean_odd - across
    # Rayleigh noise, whose scale the median of the smallest filter's power gives.
    power_per_filter, filters_energy = noise
    median = filters.median(squares[0].reshape(energy.shape[0], -1))
    noise_power = median / math.log(2) / power_per_filter
    tau = filters.safe_sqrt(noise_power * filters_energy / 2)
    threshold = tau * (math.sqrt(math.pi / 2) + _NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2))
    return jnp.maximum(energy - threshold[:, None, None] / _NOISE_DIVISOR, 0.0), amplitude


@functools.lru_cache(maxsize=8)
def _bank(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The filters: radial parts `[scales, H, W]`, angular parts `[orientations, H, W]`, noise figures.

    The noise figures `[orientations, 2]` are the smallest filter's sum of squares, and the factor that gives
    from the noise's power the energy that all filters together make of it.
    """
    v, u = np.meshgrid(_frequencies(height), _frequencies(width), indexing="ij")
    radius, theta = np.hypot(u, v), np.arctan2(-v, u)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1.0
    waves = _SHORTEST_WAVE * _WAVE_FACTOR ** np.arange(_SCALES)
    radial = (
        np.exp(-(np.log(radius * waves[:, None, None]) ** 2) / (2 * math.log(_SIGMA_ON_F) ** 2)) * low_pass
    )
    radial[:, 0, 0] = 0.0
    angles = np.arange(_ORIENTATIONS) * math.pi / _ORIENTATIONS
    turned = theta - angles[:, None, None]
    distance = np.abs(np.arctan2(np.sin(turned), np.cos(turned)))
    sigma = math.pi / _ORIENTATIONS / _ANGLE_ON_SIGMA
    angular = np.exp(-(distance**2) / (2 * sigma**2))
    noise = np.empty((_ORIENTATIONS, 2))
    for o in range(_ORIENTATIONS):
        bank = radial * angular[o]
        spatial = np.fft.ifft2(bank).real * math.sqrt(height * width)
        # 2 sum_s f_s^2 + 4 sum_(s<t) f_s f_t = 2 (sum_s f_s)^2
        noise[o] = (bank[0] ** 2).sum(), 2 * np.square(spatial.sum(axis=0)).sum()
    return radial.astype(np.float32), angular.astype(np.float32), noise


def _frequencies(length: int) -> np.ndarray:
    """Normalised frequencies in FFT order, as the reference code spaces them for odd lengths, too."""
    ticks = np.arange(length) - length // 2
    return np.fft.ifftshift(ticks / (length - 1 if length % 2 else length))
