"""What the metrics share: small filters with the edges of the reference code, and functions safe at 0.

Maps are `[..., H, W]`: channels and images are leading axes, so that every loop runs along rows.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array


def gaussian_taps(length: int, sigma: float) -> tuple[float, ...]:
    """A Gaussian window of odd length that sums to 1."""
    taps = np.exp(-0.5 * ((np.arange(length) - length // 2) / sigma) ** 2)
    return tuple(float(tap) for tap in taps / taps.sum())


def correlate(x: Array, taps: Sequence[float], axis: int) -> Array:
    """Correlate along one negative axis, only where the window lies inside.

    A sum of shifted maps: ten times as fast as a convolution of one channel on CPUs. Its gradient is the same
    sum again; the one that XLA would make of padded slices takes twenty times as long.
    """
    return _correlate.bind(x, taps=tuple(taps), axis=axis)


def _shifted_sum(x: Array, *, taps: tuple[float, ...], axis: int) -> Array:
    length = x.shape[axis] - len(taps) + 1
    at = lambda i: jax.lax.slice_in_dim(x, i, i + length, axis=axis + x.ndim)  # noqa: E731
    return functools.reduce(operator.add, [tap * at(i) for i, tap in enumerate(taps) if tap])


def _transpose(g: Any, x: Any, *, taps: tuple[float, ...], axis: int) -> list[Array]:
    del x
    around = [(0, 0)] * g.ndim
    around[axis] = (len(taps) - 1, len(taps) - 1)
    return [correlate(jnp.pad(g, around), taps[::-1], axis)]


def _batch(args: tuple[Array], dims: tuple[int], *, taps: tuple[float, ...], axis: int) -> tuple[Array, int]:
    return correlate(jnp.moveaxis(args[0], dims[0], 0), taps, axis), 0


def _shape_of(x: Any, *, taps: tuple[float, ...], axis: int) -> Any:
    shape = list(x.shape)
    shape[axis] -= len(taps) - 1
    return x.update(shape=tuple(shape))


# A primitive of its own, because it is the one way to give a linear function a transpose without losing
# forward mode, `vmap` or higher derivatives.
_correlate = Primitive("correlate")
_correlate.def_impl(jax.jit(_shifted_sum, static_argnames=("taps", "axis")))
_correlate.def_abstract_eval(_shape_of)
ad.deflinear2(_correlate, _transpose)
batching.primitive_batchers[_correlate] = _batch
mlir.register_lowering(_correlate, mlir.lower_fun(_shifted_sum, multiple_results=False))


def separable(x: Array, rows: Sequence[float], columns: Sequence[float]) -> Array:
    """Correlate along H with `rows` and along W with `columns`, only where the window lies inside."""
    return correlate(correlate(x, tuple(rows), -2), tuple(columns), -1)


def pad_maps(x: Array, before: int, after: int, mode: str = "constant") -> Array:
    """Pad both axes of maps alike, with `jnp.pad`'s modes."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, after)] * 2, mode=mode)


def gradient_magnitude(x: Array, smooth: Sequence[float], scale: float) -> Array:
    """The length of the gradient by 3x3 operators: `smooth` across, (1, 0, -1) along; zeros beyond the edge.

    `smooth` has three taps, as (3, 10, 3) of Scharr's operator; the result is multiplied by `scale`.
    """
    padded = pad_maps(x, 1, 1)
    smooth, difference = tuple(scale * tap for tap in smooth), (1.0, 0.0, -1.0)
    across, down = separable(padded, smooth, difference), separable(padded, difference, smooth)
    return safe_sqrt(across * across + down * down)


def box_downsample(x: Array, factor: int, *, mode: str) -> Array:
    """Average squares of `factor` pixels a side and keep one value of each, aligned as MATLAB does.

    The result is `[..., ceil(H / factor), ceil(W / factor)]`. `mode` says what lies beyond the edge:
    "constant" (zeros: `conv2(..., 'same')`) or "symmetric" (`imfilter(..., 'symmetric')`).
    """
    if factor == 1:
        return x
    before = factor - 1 - factor // 2
    for axis in (-2, -1):
        length = x.shape[axis]
        count = math.ceil(length / factor)
        after = count * factor - before - length
        around = [(0, 0)] * x.ndim
        around[axis] = (before, max(after, 0))
        x = jnp.pad(x, around, mode=mode)
        # Sums of strided slices: a mean over a small axis takes XLA up to ten times as long on CPUs.
        end = (count - 1) * factor + 1
        parts = [
            jax.lax.slice_in_dim(x, i, i + end, stride=factor, axis=axis + x.ndim) for i in range(factor)
        ]
        x = functools.reduce(operator.add, parts) / factor
    return x


def downsampling_factor(height: int, width: int) -> int:
    """max(1, round(shorter side / 256)), halves up as in MATLAB."""
    return max(1, math.floor(min(height, width) / 256 + 0.5))


@functools.partial(jax.custom_jvp)
def safe_sqrt(x: Array) -> Array:
    """The square root; its derivative at 0 (and below, where it is 0) is 0."""
    return jnp.sqrt(jnp.maximum(x, 0.0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    root = safe_sqrt(x)
    return root, jnp.where(x > 0, 0.5 / jnp.where(x > 0, root, 1.0), 0.0) * t


def safe_power(x: Array, exponent: float) -> Array:
    """`x ** exponent` for x at least 0; its derivative at 0 is 0. Below 0 it is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def real_power(x: Array, exponent: float) -> Array:
    """The real part of the principal value of `x ** exponent`, as MATLAB's `real(x .^ e)`.

    For exponents from 0 to 1. Where |x| < 0.05 the derivative is that at 0.05, and at 0 it is 0: the true one
    has no bound, and the few points that happen to lie near 0 would drown all others in a loss.
    """
    turned = jnp.where(x < 0, math.cos(math.pi * exponent), 1.0)
    return turned * safe_power(jnp.abs(x), exponent)


@real_power.defjvp
def _real_power_jvp(exponent: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    turned = jnp.where(x < 0, math.cos(math.pi * exponent), 1.0)
    slope = exponent * jnp.maximum(jnp.abs(x), 0.05) ** (exponent - 1)
    return real_power(x, exponent), turned * jnp.sign(x) * slope * t


def safe_divide(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where b is 0."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def similarity(a: Array, b: Array, constant: float) -> Array:
    """(2ab + c) / (a^2 + b^2 + c): 1 where a = b."""
    return (2 * a * b + constant) / (a * a + b * b + constant)


def weighted_mean(x: Array, weight: Array) -> Array:
    """The mean over H and W; where no pixel has any weight, 1: there is nothing to tell apart."""
    # A weight of 1e-12 a pixel, too little to change any other score.
    weight = weight + 1e-12
    return (x * weight).sum(axis=(-2, -1)) / weight.sum(axis=(-2, -1))


def kth_smallest(x: Array, k: Array | int) -> Array:
    """The k-th smallest (from 0) of float32 values of at least 0 along the last axis; no gradient flows.

    Exact, without sorting: bisection on the bit pattern, which orders as the values do. A sort takes thirty
    times as long on CPUs.
    """
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x) + 0.0, jnp.int32)
    # The largest pattern with at most k values below it is the value itself.
    found = jnp.zeros(x.shape[:-1], jnp.int32)

    def step(i: Array, found: Array) -> Array:
        candidate = found | (jnp.int32(1) << (30 - i))
        below = (bits < candidate[..., None]).sum(axis=-1, dtype=jnp.int32)
        return jnp.where(below <= k, candidate, found)

    found = jax.lax.fori_loop(0, 31, step, found)
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def median(x: Array) -> Array:
    """The median of float32 values of at least 0 along the last axis.

    Its gradient is the mean over all values within 5 % of it, an estimate of how the median of so many moves;
    the exact derivative, that of the one or two values in the middle, is mostly chance.
    """
    count = x.shape[-1]
    low = kth_smallest(x, (count - 1) // 2)
    # The next one is the same, or the least that is larger.
    fixed = jax.lax.stop_gradient(x)
    most = (fixed <= low[..., None]).sum(axis=-1)
    following = jnp.where(fixed > low[..., None], fixed, jnp.inf).min(axis=-1)
    high = jnp.where(most > count // 2, low, following)
    value = (low + high) / 2
    reach = jnp.maximum(0.05 * value, (high - low) / 2)
    # Both sides of the middle in any case, whatever rounding does to the distance.
    near = (
        (jnp.abs(x - value[..., None]) <= reach[..., None]) | (x == low[..., None]) | (x == high[..., None])
    )
    mean = jnp.where(near, x, 0.0).sum(axis=-1) / near.sum(axis=-1)
    return value + (mean - jax.lax.stop_gradient(mean))
