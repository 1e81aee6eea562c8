"""Blur kernels by their parameters, made inside compiled steps; and where a kernel's centre lies."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import check_positive_int

Array = jax.Array


def gaussian_kernel(
    size: int,
    sigma_x: ArrayLike,
    sigma_y: ArrayLike,
    theta: ArrayLike,
    *,
    beta: ArrayLike = 1.0,
    plateau: bool = False,
    centre: ArrayLike | None = None,
) -> Array:
    """Makes Gaussian kernels with two widths and a direction, generalised ones, and those with a plateau.

    With q = dᵀ Σ⁻¹ d, d the place from the centre: exp(-q^β / 2), or 1 / (1 + q^β) with a plateau; a β of 1
    without plateau is the Gaussian. The values are those at the pixels' centres.

    Args:
        size: of a side, in pixels.
        sigma_x: standard deviation along the first principal axis in pixels, a scalar or `[...]`; above 0.
        sigma_y: along the second.
        theta: angle from the x axis (columns) to the first principal axis, towards larger rows, in radians.
        beta: of the exponent, above 0.
        plateau: make the other kind.
        centre: (row, column) of the centre, `[..., 2]`; by default the middle, (size - 1) / 2.

    Returns:
        `[..., size, size]` float32 of sum 1.

    Raises:
        ValueError: if the size is no positive integer.

    Source: Wang et al. 2021 (Real-ESRGAN), section 3.1; Liu et al. 2020 for the plateau.
    """
    size = check_positive_int(size, function="gaussian_kernel", argument="size")
    sx, sy, angle, power = jnp.broadcast_arrays(
        *(jnp.asarray(value, jnp.float32)[..., None, None] for value in (sigma_x, sigma_y, theta, beta))
    )
    x, y = jnp.broadcast_arrays(*_places(size, centre), sx)[:2]
    along, across = x * jnp.cos(angle) + y * jnp.sin(angle), y * jnp.cos(angle) - x * jnp.sin(angle)
    q = jnp.square(along / sx) + jnp.square(across / sy)
    # The gradient of q^β at q = 0 would be no number.
    raised = jnp.exp(power * jnp.log(jnp.maximum(q, 1e-12)))
    return _normalised(1 / (1 + raised) if plateau else jnp.exp(-raised / 2))


def motion_kernel(size: int, length: ArrayLike, theta: ArrayLike) -> Array:
    """Makes kernels of a straight, even motion while the picture is taken.

    The path's points are spread bilinearly over the four pixels around each.

    Args:
        size: of a side, in pixels.
        length: of the path in pixels, a scalar or `[...]`, at least 0; a path longer than the kernel is cut.
        theta: its direction from the x axis (columns), in radians.

    Returns:
        `[..., size, size]` float32 of sum 1.

    Raises:
        ValueError: if the size is no positive integer.
    """
    size = check_positive_int(size, function="motion_kernel", argument="size")
    far, angle = jnp.broadcast_arrays(jnp.asarray(length, jnp.float32), jnp.asarray(theta, jnp.float32))
    middle = (size - 1) / 2
    along = (jnp.arange(8 * size) + 0.5) / (8 * size) - 0.5
    far, angle, along = jnp.broadcast_arrays(far[..., None], angle[..., None], along)
    x, y = middle + along * far * jnp.cos(angle), middle + along * far * jnp.sin(angle)
    pixels = jnp.arange(size, dtype=jnp.float32)

    def share(place: Array) -> Array:
        place, pixel = jnp.broadcast_arrays(place[..., None], pixels)
        return jnp.maximum(0, 1 - jnp.abs(place - pixel))

    rows, columns = share(y), share(x)
    return _normalised(jnp.einsum("...pr,...pc->...rc", rows, columns, precision=jax.lax.Precision.HIGHEST))


def sinc_kernel(size: int, cutoff: ArrayLike) -> Array:
    """Makes the kernel of an ideal round low-pass filter, whose ringing sharpened photos show.

    k(r) = ω J₁(ω r) / (2π r), and ω² / 4π in the middle.

    Args:
        size: of a side, odd.
        cutoff: ω in radians a pixel, in (0, π], a scalar or `[...]`.

    Returns:
        `[..., size, size]` float32 of sum 1.

    Raises:
        ValueError: if the size is no odd positive integer.

    Source: Wang et al. 2021 (Real-ESRGAN), equation 4.
    """
    size = check_positive_int(size, function="sinc_kernel", argument="size")
    if size % 2 == 0:
        raise ValueError(f"sinc_kernel: size must be odd, but was {size}.")
    omega = jnp.asarray(cutoff, jnp.float32)[..., None, None]
    x, y, omega = jnp.broadcast_arrays(*_places(size, None), omega)
    r = jnp.hypot(x, y)
    away = jnp.maximum(r, 0.5)
    ring = omega * _bessel_j1(omega * away, most=np.pi * size) / (2 * np.pi * away)
    return _normalised(jnp.where(r < 0.5, jnp.square(omega) / (4 * np.pi), ring))


def centre_of_mass(kernel: ArrayLike) -> Array:
    """Finds the centre of mass of kernels.

    Args:
        kernel: `[..., K, L]`, of a sum that is not 0.

    Returns:
        `[..., 2]` float32, row and column from the first entry's centre.
    """
    k = jnp.asarray(kernel, jnp.float32)
    total = k.sum((-2, -1))
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in k.shape[-2:])
    row, column = jnp.dot(k.sum(-1), rows), jnp.dot(k.sum(-2), columns)
    return jnp.stack([row, column], axis=-1) / total[..., None]


def _places(size: int, centre: ArrayLike | None) -> tuple[Array, Array]:
    """x and y of every pixel from the centre, `[..., size, size]`."""
    if centre is None:
        row, column = jnp.float32((size - 1) / 2), jnp.float32((size - 1) / 2)
    else:
        at = jnp.asarray(centre, jnp.float32)
        row, column = at[..., 0, None, None], at[..., 1, None, None]
    steps = jnp.arange(size, dtype=jnp.float32)
    x, y = jnp.broadcast_arrays(steps[None, :] - column, steps[:, None] - row)
    return x, y


def _normalised(kernel: Array) -> Array:
    return kernel / kernel.sum((-2, -1), keepdims=True)


def _bessel_j1(x: Array, *, most: float) -> Array:
    """J₁ by its integral, 1/π ∫₀^π cos(τ - x sin τ) dτ; exact to rounding with more points than `most`."""
    points = int(most) + 24
    tau = jnp.asarray((np.arange(points) + 0.5) * np.pi / points, jnp.float32)
    tau, at = jnp.broadcast_arrays(tau, x[..., None])
    return jnp.cos(tau - at * jnp.sin(tau)).mean(-1)
