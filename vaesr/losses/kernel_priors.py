"""What is asked of a blur kernel that is being estimated: KernelGAN's regularisation.

Each loss takes kernels `[B, K, K]` and returns one value a kernel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def kernel_sum_loss(kernel: Array) -> Array:
    """|1 - Σ k|: the kernel keeps the brightness.

    Args:
        kernel: `[B, K, K]`.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if the shape does not fit.

    Source: Bell-Kligler et al. 2019 (KernelGAN), section 4.3, "sum to 1".
    """
    return jnp.abs(1 - _checked(kernel).sum((1, 2)))


def kernel_boundary_loss(kernel: Array) -> Array:
    """Mean of |k m|: a mask m that grows towards the corners pulls the outer two pixels to zero.

    Args:
        kernel: `[B, K, K]` with K of at least 5.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if the shape does not fit.

    Source: Bell-Kligler et al. 2019 (KernelGAN), section 4.3, "boundaries"; the mask is the authors' code's.
    """
    k = _checked(kernel)
    return jnp.abs(k * boundary_mask(k.shape[1])[None]).mean((1, 2))


def kernel_centre_loss(kernel: Array, *, scale: int = 2) -> Array:
    """Mean square of how far the centre of mass is from where the subsampling wants it, in pixels.

    Args:
        kernel: `[B, K, K]`; where its sum is nearly 0 the loss is large.
        scale: of the subsampling; the centre belongs at K // 2 + (scale - K mod 2) / 2.

    Returns:
        float32 `[B]` in squared pixels, at least 0.

    Raises:
        ValueError: if the shape does not fit.

    Source: Bell-Kligler et al. 2019 (KernelGAN), section 4.3, "center".
    """
    k = _checked(kernel)
    side = k.shape[1]
    wanted = side // 2 + (scale - side % 2) / 2
    places, total = jnp.arange(side, dtype=jnp.float32), k.sum((1, 2))
    total = jnp.where(jnp.abs(total) < 1e-6, 1e-6, total)
    row = (k.sum(2) * places[None]).sum(1) / total
    column = (k.sum(1) * places[None]).sum(1) / total
    return (jnp.square(row - wanted) + jnp.square(column - wanted)) / 2


def kernel_sparsity_loss(kernel: Array, *, power: float = 0.2) -> Array:
    """Mean of |k|^power: few large entries rather than many small ones.

    Where an entry is 0 its gradient is 0; the power's own would be no number.

    Args:
        kernel: `[B, K, K]`.
        power: below 1.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        ValueError: if the shape does not fit.

    Source: Bell-Kligler et al. 2019 (KernelGAN), section 4.3, "sparse".
    """
    size = jnp.abs(_checked(kernel))
    there = size > 0
    return jnp.where(there, jnp.where(there, size, 1.0) ** power, 0.0).mean((1, 2))


@functools.cache
def boundary_mask(side: int) -> np.ndarray:
    """30 (1 - a Gaussian as wide as the kernel), in the outer two pixels of each edge of a 13x13 kernel.

    `[side, side]` float32.
    """
    places = np.arange(side) - (side - 1) / 2
    bell = np.exp(-(places**2) / (2 * side**2))
    mask = 30 * (1 - np.outer(bell, bell) / np.outer(bell, bell).max())
    margin = (side - (side // 2 + side % 2)) // 2 - 1
    mask[margin : side - margin, margin : side - margin] = 0
    return mask.astype(np.float32)


def _checked(kernel: Array) -> Array:
    if jnp.ndim(kernel) != 3 or kernel.shape[1] != kernel.shape[2]:
        raise ValueError(f"kernel has shape {jnp.shape(kernel)}; expected [B, K, K].")
    return jnp.asarray(kernel, jnp.float32)
