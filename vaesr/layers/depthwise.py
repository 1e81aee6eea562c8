"""Depthwise convolution, in a form that CPUs are fast at too."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.forms import with_own_gradients
from vaesr.layers.conv import check_types, check_words, lax_conv

FORMS = ("auto", "direct", "shifts")


def depthwise_conv2d(
    x: jax.Array, kernel: jax.Array, *, form: str = "auto", precision: str = "default"
) -> jax.Array:
    """Convolve each channel with a kernel of its own, with stride 1 and zero padding that keeps the size.

    All forms give the same numbers and gradients to 1e-5 of the largest:

    - `direct`: XLA's grouped convolution; the choice on GPUs and TPUs. Its CPU back end takes some 15 times
      as long as for `shifts`.
    - `shifts`: a sum of shifted images, times a number a channel each; the kernel's gradient image by image.
    - `auto`: `shifts` on CPUs, `direct` elsewhere, of the platform that the program is compiled for.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[K, K, 1, C]` with odd K, same type as `x`.
        form: one of `FORMS`.
        precision: of float32 multiplications on accelerators, see `conv2d`.

    Returns:
        `[B, H, W, C]` in the type of `x`.

    Raises:
        ValueError: if the shapes or types don't fit or a word is unknown.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [K, K, 1, C]."
        )
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel has shape {kernel.shape}; expected a square with an odd side.")
    check_types(x, kernel)
    check_words(form, FORMS, precision)
    if form == "auto":
        return with_own_gradients(_shifts, _direct, (precision,), x, kernel)
    return (_direct if form == "direct" else _shifts)(x, kernel, precision)


def _direct(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return lax_conv(x, kernel, (1, 1), "SAME", precision, feature_group_count=x.shape[-1])


def _shifted(x: jax.Array, side: int) -> list[jax.Array]:
    """`x` moved by all that a kernel reaches, its rows the slower."""
    height, width = x.shape[-3:-1]
    edge = (side // 2, side // 2)
    padded = jnp.pad(x, ((0, 0),) * (x.ndim - 3) + (edge, edge, (0, 0)))
    return [padded[..., i : i + height, j : j + width, :] for i in range(side) for j in range(side)]


def _sum_of_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    side, _, _, channels = kernel.shape
    taps = kernel.reshape(side * side, 1, 1, 1, channels)
    return functools.reduce(
        lax.add, [moved * tap for moved, tap in zip(_shifted(x, side), taps, strict=True)]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifts(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return _sum_of_shifts(x, kernel)


def _forward(
    x: jax.Array, kernel: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum_of_shifts(x, kernel), (x, kernel)


def _backward(precision: str, kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    wide = jnp.promote_types(x.dtype, jnp.float32)
    # A product with ones: XLA's CPU back end sums over an axis before the last in half as much again.
    ones = jnp.ones((1, x.shape[1] * x.shape[2]), x.dtype)

    # Image by image what is moved stays in the cache.
    def add(total: jax.Array, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        image, slope = both
        products = [(moved * slope).reshape(-1, x.shape[-1]) for moved in _shifted(image, kernel.shape[0])]
        sums = [
            jnp.dot(ones, product, precision=lax.Precision.HIGHEST, preferred_element_type=wide)
            for product in products
        ]
        return total + jnp.concatenate(sums), None

    start = jnp.zeros((kernel.shape[0] ** 2, x.shape[-1]), wide)
    total, _ = lax.scan(add, start, (x, g))
    return _sum_of_shifts(g, kernel[::-1, ::-1]), total.reshape(kernel.shape).astype(kernel.dtype)


_shifts.defvjp(_forward, _backward)
