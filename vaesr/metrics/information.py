"""Information content weighted SSIM (IW-SSIM): points of a Laplacian pyramid count as much as they tell."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.metrics import filters
from vaesr.metrics.protocol import GREY, Protocol, prepare_maps
from vaesr.metrics.quality import similarity_maps

Array = jax.Array

# MS-SSIM's, which sum to 1.0001, made to sum to 1.
_SCALE_WEIGHTS = tuple(weight / 1.0001 for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333))
_C1, _C2, _NOISE = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 0.4
# Windows of 11 pixels lose 5 on every side, neighbourhoods of 3 lose 1.
_BORDER = 5 - 1
_BINOMIAL = tuple(math.sqrt(2) / 16 * tap for tap in (1, 4, 6, 4, 1))


def iw_ssim(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = GREY) -> Array:
    """Returns the information content weighted structural similarity of each image.

    SSIM's contrast and structure on five bands of a Laplacian pyramid, each point weighted by the information
    that it carries under a model of natural images, luminance on the last band alone. With
    `protocol=MATLAB_GREY` this is the authors' `iwssim.m`. With RGB the channels are measured one by one and
    averaged.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default grey.

    Returns:
        `[B]` float32 in [0, 1]; 1 for identical images, flat ones too. A negative mean counts as 0 (where
        `iwssim.m` turns complex).

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 176 pixels per side remain.

    Source: Wang and Li, "Information Content Weighting for Perceptual Image Quality Assessment", 2011,
      equations 19 and 28.
    """
    return _iw_ssim(*prepare_maps(reference, distorted, protocol, function="iw_ssim", minimum=176))


@jax.jit
def _iw_ssim(x: Array, y: Array) -> Array:
    """IW-SSIM `[B]` of maps `[B, C, H, W]` whose white is 1."""
    bands = _pyramid(255.0 * jnp.stack([x, y]))
    last = len(_SCALE_WEIGHTS) - 1
    mixtures = [_neighbourhoods(bands[s][0], bands[s + 1][0] if s < last - 1 else None) for s in range(last)]
    spectra = _spectra([covariance for _, covariance in mixtures])
    score = jnp.ones(x.shape[:2], jnp.float32)
    for scale, exponent in enumerate(_SCALE_WEIGHTS):
        a, b = bands[scale]
        luminance, structure = similarity_maps(a, b, _C1, _C2)
        if scale == last:
            mean = (luminance * structure).mean(axis=(-2, -1))
        else:
            weight = _information(a, b, mixtures[scale][0], *spectra[scale])
            mean = filters.weighted_mean(structure, weight[..., _BORDER:-_BORDER, _BORDER:-_BORDER])
        score = score * filters.safe_power(mean, exponent)
    return score.mean(axis=-1)


def _pyramid(image: Array) -> list[Array]:
    """Laplacian pyramid of five bands, the finest first; edges are mirrored about the outermost pixel."""
    bands = []
    for _ in range(len(_SCALE_WEIGHTS) - 1):
        low = image
        for axis in (-2, -1):
            low = _decimate(low, axis)
        high = low
        for axis in (-2, -1):
            high = _expand(high, image.shape[axis], axis)
        bands.append(image - high)
        image = low
    return [*bands, image]


def _decimate(x: Array, axis: int) -> Array:
    """Smooth along an axis, mirrored about the outermost values, and keep every second value."""
    length = x.shape[axis]
    smooth = filters.correlate(_between(x, (2, 1), (length - 2, length - 3), axis), _BINOMIAL, axis)
    return jax.lax.slice_in_dim(smooth, 0, None, stride=2, axis=axis + x.ndim)


def _expand(x: Array, length: int, axis: int) -> Array:
    """Put zeros between values and smooth; mirrored about the outermost of the `length` results."""
    count = x.shape[axis]
    # Even places see three values, odd ones two. A last place that is odd mirrors the value before it.
    padded = _between(x, (1,), (count - 2 if length % 2 else count - 1,), axis)
    even = filters.correlate(padded, _BINOMIAL[::2], axis)
    inner = jax.lax.slice_in_dim(padded, 1, count + 2, axis=axis + x.ndim)
    odd = filters.correlate(inner, _BINOMIAL[1::2], axis)
    shape = (*x.shape[:-2], 2 * count, x.shape[-1]) if axis == -2 else (*x.shape[:-1], 2 * count)
    both = jnp.stack([even, odd], axis=-1 if axis == -1 else -2).reshape(shape)
    return jax.lax.slice_in_dim(both, 0, length, axis=axis + x.ndim)


def _between(x: Array, before: tuple[int, ...], after: tuple[int, ...], axis: int) -> Array:
    """The values along an axis with copies of some of them, named by index, before and after."""
    one = lambda i: jax.lax.slice_in_dim(x, i, i + 1, axis=axis + x.ndim)  # noqa: E731
    return jnp.concatenate([*map(one, before), x, *map(one, after)], axis=axis)


def _apply_rows(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """Apply a banded matrix `[out, in]` along one axis: a sum over its few diagonals of gathered values."""
    taps = int((matrix != 0).sum(axis=1).max())
    # The non-zero entries of each row, filled up with zero ones beside them.
    first = np.minimum((matrix != 0).argmax(axis=1), matrix.shape[1] - taps)
    at = lambda tap: matrix[np.arange(len(first)), first + tap].astype(np.float32)  # noqa: E731
    ahead = (1,) * (x.ndim + axis)
    terms = [
        jnp.take(x, first + tap, axis=axis) * at(tap).reshape(*ahead, -1, *(1,) * (-1 - axis))
        for tap in range(taps)
    ]
    return functools.reduce(operator.add, terms)


def _neighbourhoods(x: Array, parent: Array | None) -> tuple[Array, Array]:
    """What surrounds each point of a reference's band `[..., H, W]`: vectors of a Gaussian scale mixture.

    The vectors are `[..., K, (H - 2) (W - 2)]`, their covariance `[..., K, K]`; K = 9, or 10 with a `parent`,
    the reference's next coarser band.
    """
    height, width = x.shape[-2:]
    shifts = [x[..., i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    if parent is not None:
        for axis, length in ((-2, height), (-1, width)):
            parent = _apply_rows(parent, _enlargement(parent.shape[axis])[:length], axis)
        shifts.append(parent[..., 1:-1, 1:-1])
    neighbours = jnp.stack(shifts, axis=-3)
    count, points = neighbours.shape[-3], neighbours.shape[-2] * neighbours.shape[-1]
    vectors = neighbours.reshape(*neighbours.shape[:-2], points)
    covariance = (
        jnp.einsum("...in,...jn->...ij", vectors, vectors, precision=jax.lax.Precision.HIGHEST) / points
    )
    # So little that only flat bands notice: there it keeps the inverse finite.
    return vectors, covariance + jnp.broadcast_to(1e-6 * jnp.eye(count), covariance.shape)


def _spectra(covariances: list[Array]) -> list[tuple[Array, Array]]:
    """Inverses `[..., K, K]` and eigenvalues `[..., K]`, at least 0, of covariances `[..., K, K]`.

    One decomposition for all: several at once can wait for each other forever on a CPU of two threads. Their
    derivatives are those of one Newton step and of Rayleigh quotients, which survive equal eigenvalues.
    """
    size = max(c.shape[-1] for c in covariances)
    padded = []
    for c in covariances:
        more = size - c.shape[-1]
        # Larger than every eigenvalue: the added ones come last.
        beyond = 2 * jnp.trace(c, axis1=-2, axis2=-1)[..., None, None] + 1
        added = jnp.diag(jnp.asarray([0.0] * c.shape[-1] + [1.0] * more))
        wide = jnp.pad(c, [(0, 0)] * (c.ndim - 2) + [(0, more)] * 2)
        padded.append(wide + beyond * jnp.broadcast_to(added, wide.shape))
    stacked = jnp.stack(padded)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    roots, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(stacked))[:2]
    rough = product(vectors / jnp.maximum(roots, 1e-7)[..., None, :], jnp.swapaxes(vectors, -1, -2))
    rough = jax.lax.stop_gradient(rough)
    inverses = 2 * rough - product(rough, product(stacked, rough))
    values = (product(stacked, vectors) * vectors).sum(axis=-2)
    return [
        (inverse[..., :k, :k], jnp.maximum(value[..., :k], 0.0))
        for inverse, value, k in zip(inverses, values, [c.shape[-1] for c in covariances], strict=True)
    ]


def _information(x: Array, y: Array, vectors: Array, inverse: Array, eigenvalues: Array) -> Array:
    """Bits that each point carries, `[..., H - 2, W - 2]` of a band of reference x and distorted y.

    The vectors are those of `_neighbourhoods`, inverse and eigenvalues those of their covariance.
    """
    gain, error = _gain(x, y)
    count = vectors.shape[-2]
    solved = jnp.matmul(inverse, vectors, precision=jax.lax.Precision.HIGHEST)
    # XLA's sum over an axis before the last takes ten times as long on CPUs.
    products = [vectors[..., i, :] * solved[..., i, :] for i in range(count)]
    scale = functools.reduce(operator.add, products).reshape(*gain.shape) / count
    a = (error + (1 + gain * gain) * _NOISE) * scale / _NOISE**2
    b = 1 + error / _NOISE
    # The sum of log2(b + a lambda), two factors at a time: half the logarithms, and no overflow.
    factors = [b + a * value[..., None, None] for value in jnp.moveaxis(eigenvalues, -1, 0)]
    factors = [first * second for first, second in zip(factors[::2], [*factors[1::2], 1.0], strict=False)]
    return functools.reduce(operator.add, [jnp.log2(factor) for factor in factors])


def _gain(x: Array, y: Array) -> tuple[Array, Array]:
    """Local gain from x to y and the variance of what it leaves, inside the one-pixel border."""
    maps = jnp.stack([x, y, x * y, x * x, y * y])
    mean_x, mean_y, product, square_x, square_y = filters.separable(maps, (1 / 3,) * 3, (1 / 3,) * 3)
    covariance = product - mean_x * mean_y
    variance_x = jnp.maximum(square_x - mean_x * mean_x, 0.0)
    variance_y = jnp.maximum(square_y - mean_y * mean_y, 0.0)
    # Rounding leaves flat areas a variance of about 1e-7 of their square.
    flat_x, flat_y = (v <= 1e-6 * s + 1e-12 for v, s in ((variance_x, square_x), (variance_y, square_y)))
    gain = jnp.where(flat_x | flat_y, 0.0, covariance / jnp.where(flat_x, 1.0, variance_x))
    error = jnp.where(flat_y, 0.0, variance_y - gain * covariance)
    return gain, jnp.maximum(error, 0.0)


@functools.lru_cache(maxsize=64)
def _enlargement(length: int) -> np.ndarray:
    """The matrix `[2 length, length]` of the authors' `imenlarge2`: bilinear to 4n - 3, one more at each end
    by extrapolation, every second kept."""
    fine = 4 * length - 3
    centre = (np.arange(1, fine + 1) - 0.5) * length / fine + 0.5
    left = np.floor(centre).astype(int)
    matrix = np.zeros((fine + 2, length))
    for row, (place, low) in enumerate(zip(centre, left, strict=True), 1):
        for source, weight in ((low, low + 1 - place), (low + 1, place - low)):
            matrix[row, np.clip(source, 1, length) - 1] += weight
    matrix[0] = 2 * matrix[1] - matrix[2]
    matrix[-1] = 2 * matrix[-2] - matrix[-3]
    return matrix[::2]
