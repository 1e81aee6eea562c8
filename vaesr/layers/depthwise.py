"""Depthwise convolution, in a form that CPUs are fast at too."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vaesr.forms import with_own_gradients
from vaesr.imaging import upsample_nearest
from vaesr.layers.conv import check_types, check_words, lax_conv

FORMS = ("auto", "direct", "shifts")


def depthwise_conv2d(
    x: jax.Array, kernel: jax.Array, *, enlarge: int = 1, form: str = "auto", precision: str = "default"
) -> jax.Array:
    """Convolve each channel with a kernel of its own, with stride 1 and zero padding.

    Derivatives are in reverse mode only but for `direct`. In float32 all forms give the same numbers and
    gradients to 1e-5 of the largest:

    - `direct`: XLA's grouped convolution; the choice on GPUs and TPUs. Its CPU back end takes some 15 times
      as long as for `shifts`.
    - `shifts`: a sum of shifted images, times a number a channel each; the gradients image by image, so that
      several CPU devices each do all of that.
      The enlarged image is never made: each of the positions within a pixel has a smaller kernel.
    - `auto`: `shifts` on CPUs, `direct` elsewhere, of the platform that the program is compiled for.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[K, K, 1, C]` with odd K, same type as `x`.
        enlarge: how often each pixel is repeated along both axes before the convolution.
        form: one of `FORMS`.
        precision: of float32 multiplications on accelerators, see `conv2d`.

    Returns:
        `[B, enlarge * H, enlarge * W, C]` in the type of `x`.

    Raises:
        ValueError: if the shapes or types don't fit or a word is unknown.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [K, K, 1, C]."
        )
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel has shape {kernel.shape}; expected a square with an odd side.")
    if enlarge < 1:
        raise ValueError(f"enlarge must be at least 1, got {enlarge}.")
    check_types(x, kernel)
    check_words(form, FORMS, precision)
    if form == "auto":
        return with_own_gradients(_shifts, _direct, (enlarge, precision), x, kernel)
    return (_direct if form == "direct" else _shifts)(x, kernel, enlarge, precision)


def _direct(x: jax.Array, kernel: jax.Array, enlarge: int, precision: str) -> jax.Array:
    if enlarge > 1:
        x = upsample_nearest(x, enlarge)
    return lax_conv(x, kernel, (1, 1), "SAME", precision, feature_group_count=x.shape[-1])


def _of_positions(side: int, enlarge: int) -> np.ndarray:
    """What of a kernel's taps falls on which pixel of the image that is not enlarged.

    `[P * k * k, K * K]` of zeros and ones, for the P positions within a pixel; k <= K.
    """
    reach = side // 2
    taps = np.arange(-reach, reach + 1)
    # The pixel that each tap is on, of each position along an axis.
    pixels = np.floor_divide(np.arange(enlarge)[:, None] + taps, enlarge)
    near = -(-reach // enlarge)
    on = (pixels[:, None] == np.arange(-near, near + 1)[None, :, None]).astype(np.float32)
    both = np.einsum("api,bqj->abpqij", on, on)
    return both.reshape(-1, side * side)


def _small_kernels(kernel: jax.Array, enlarge: int) -> jax.Array:
    """`[P, k, k, C]`, the kernel of each position within a pixel."""
    side, _, _, channels = kernel.shape
    if enlarge == 1:
        return kernel.reshape(1, side, side, channels)
    to = _of_positions(side, enlarge)
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    # A product of matrices leaves the channels side by side in memory, where an `einsum` might not.
    small = jnp.dot(to.astype(wide), kernel.reshape(side * side, channels).astype(wide), precision="highest")
    k = math.isqrt(len(to) // enlarge**2)
    return small.astype(kernel.dtype).reshape(enlarge**2, k, k, channels)


def _padded(x: jax.Array, reach: int) -> jax.Array:
    """`[..., H, W, C]` with a border of zeros of that width."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 3) + ((reach, reach), (reach, reach), (0, 0)))


def _shifted(padded: jax.Array, side: int) -> list[jax.Array]:
    """All that a kernel reaches, its rows the slower."""
    height, width = (size - side + 1 for size in padded.shape[-3:-1])
    return [padded[..., i : i + height, j : j + width, :] for i in range(side) for j in range(side)]


def _weighed(shifted: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """The sum of all that is shifted, times the kernel's `[k, k, C]` numbers."""
    taps = kernel.reshape(-1, *(1,) * (shifted[0].ndim - 1), kernel.shape[-1])
    return functools.reduce(lax.add, [moved * tap for moved, tap in zip(shifted, taps, strict=True)])


def _sum_of_shifts(x: jax.Array, kernel: jax.Array, enlarge: int) -> jax.Array:
    small = _small_kernels(kernel, enlarge)
    side = small.shape[1]
    shifted = _shifted(_padded(x, side // 2), side)
    positions = [_weighed(shifted, own) for own in small]
    if enlarge == 1:
        return positions[0]
    rows = [jnp.stack(positions[i : i + enlarge], axis=3) for i in range(0, len(positions), enlarge)]
    batch, height, width, channels = x.shape
    return jnp.stack(rows, axis=2).reshape(batch, enlarge * height, enlarge * width, channels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifts(x: jax.Array, kernel: jax.Array, enlarge: int, precision: str) -> jax.Array:
    return _sum_of_shifts(x, kernel, enlarge)


def _forward(
    x: jax.Array, kernel: jax.Array, enlarge: int, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_of_shifts(x, kernel, enlarge), (x, kernel)


def _backward(
    enlarge: int, precision: str, kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    small = _small_kernels(kernel, enlarge)
    side = small.shape[1]
    reach, (_, height, width, channels) = side // 2, x.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    together = math.gcd(height, 8)  # rows that are added before they are summed
    ones = jnp.ones((1, height * width // together), wide)

    # Image by image what is moved stays in the cache, in one array with a border that stays zero: else XLA
    # would read it from the batch's again for every product.
    def add(
        carried: tuple[jax.Array, jax.Array], both: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (total, maps), (image, slope) = carried, both
        parts = [image, *(slope[:, a, :, b] for a in range(enlarge) for b in range(enlarge))]
        for i, part in enumerate(parts):
            maps = maps.at[i, reach : reach + height, reach : reach + width].set(part.astype(wide))
        moved = _shifted(maps[0], side)
        backs, sums = [], []
        for padded, own in zip(maps[1:], small.astype(wide), strict=True):
            backs.append(_weighed(_shifted(padded, side), own[::-1, ::-1]))
            part = padded[reach : reach + height, reach : reach + width]
            for values in moved:
                added = functools.reduce(
                    lax.add, [values[i::together] * part[i::together] for i in range(together)]
                )
                # A product with ones: XLA's CPU back end sums over an axis before the last more slowly.
                sums.append(jnp.dot(ones, added.reshape(-1, channels), precision="highest"))
        return (total + jnp.concatenate(sums), maps), functools.reduce(lax.add, backs).astype(x.dtype)

    start = jnp.zeros((enlarge**2 * side * side, channels), wide)
    maps = jnp.zeros((1 + enlarge**2, height + 2 * reach, width + 2 * reach, channels), wide)
    slopes = g.reshape(-1, height, enlarge, width, enlarge, channels)
    (total, _), back = lax.scan(add, (start, maps), (x, slopes))
    if enlarge > 1:
        total = jnp.dot(_of_positions(kernel.shape[0], enlarge).T.astype(wide), total, precision="highest")
    return back, total.reshape(kernel.shape).astype(kernel.dtype)


_shifts.defvjp(_forward, _backward)
