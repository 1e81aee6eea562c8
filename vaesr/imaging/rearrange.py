"""Rearrangements of pixels that compute nothing: pixel shuffle, patches, the eight symmetries of a square."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.imaging._checks import check_positive_int, check_rank

Array = jax.Array


def pixel_shuffle(x: ArrayLike, factor: int) -> Array:
    """Moves channels into space, with channels ordered (c, r_h, r_w) as in PyTorch's `PixelShuffle`.

    Args:
        x: `[..., H, W, C * factor**2]`, any dtype.
        factor: upscaling factor, at least 1; static.

    Returns:
        `[..., H * factor, W * factor, C]` of the same dtype.

    Raises:
        ValueError: if the channels are not a multiple of `factor**2`.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution", 2016, equation 4.
    """
    check_rank(x, function="pixel_shuffle")
    r = check_positive_int(factor, function="pixel_shuffle", argument="factor")
    y = jnp.asarray(x)
    *lead, height, width, channels = y.shape
    if channels % (r * r):
        raise ValueError(f"pixel_shuffle: {channels} channels are not a multiple of factor**2 = {r * r}.")
    n = len(lead)
    y = y.reshape((*lead, height, width, channels // (r * r), r, r))
    y = y.transpose((*range(n), n, n + 3, n + 1, n + 4, n + 2))  # H, r_h, W, r_w, C
    return y.reshape((*lead, height * r, width * r, channels // (r * r)))


def pixel_unshuffle(x: ArrayLike, factor: int) -> Array:
    """Moves space into channels ordered (c, r_h, r_w); the inverse of `pixel_shuffle`.

    Args:
        x: `[..., H * factor, W * factor, C]`, any dtype.
        factor: downscaling factor, at least 1; static.

    Returns:
        `[..., H, W, C * factor**2]` of the same dtype.

    Raises:
        ValueError: if height or width is not a multiple of `factor`.

    Source: PyTorch `PixelUnshuffle`.
    """
    check_rank(x, function="pixel_unshuffle")
    r = check_positive_int(factor, function="pixel_unshuffle", argument="factor")
    y = jnp.asarray(x)
    *lead, height, width, channels = y.shape
    if height % r or width % r:
        raise ValueError(f"pixel_unshuffle: size {height}x{width} is not a multiple of factor = {r}.")
    n = len(lead)
    y = y.reshape((*lead, height // r, r, width // r, r, channels))
    y = y.transpose((*range(n), n, n + 2, n + 4, n + 1, n + 3))  # H, W, C, r_h, r_w
    return y.reshape((*lead, height // r, width // r, channels * r * r))


def upsample_nearest(x: ArrayLike, factor: int) -> Array:
    """Repeats every pixel `factor` times in both directions.

    Args:
        x: `[..., H, W, C]`, any dtype.
        factor: upscaling factor, at least 1; static.

    Returns:
        `[..., H * factor, W * factor, C]` of the same dtype.

    Raises:
        ValueError: if `x` has fewer than three axes or the factor is no positive integer.

    Source: PyTorch `Upsample` with mode "nearest".
    """
    check_rank(x, function="upsample_nearest")
    r = check_positive_int(factor, function="upsample_nearest", argument="factor")
    y = jnp.asarray(x)
    *lead, height, width, channels = y.shape
    y = jnp.broadcast_to(y[..., :, None, :, None, :], (*lead, height, r, width, r, channels))
    return y.reshape((*lead, height * r, width * r, channels))


def extract_patches(image: ArrayLike, *, size: int, stride: int | None = None) -> Array:
    """Cuts images into square patches on a regular grid; a remainder at the far edges is dropped.

    Args:
        image: `[..., H, W, C]`, any dtype.
        size: side of a patch in pixels.
        stride: distance between patches in pixels; `size` (no overlap) if None.

    Returns:
        `[..., rows, columns, size, size, C]` with `rows = (H - size) // stride + 1`, of the same dtype.

    Raises:
        ValueError: if the image is smaller than one patch.
    """
    check_rank(image, function="extract_patches")
    size = check_positive_int(size, function="extract_patches", argument="size")
    step = (
        size if stride is None else check_positive_int(stride, function="extract_patches", argument="stride")
    )
    x = jnp.asarray(image)
    height, width = x.shape[-3:-1]
    if min(height, width) < size:
        raise ValueError(f"extract_patches: size {size} does not fit in an image of {height}x{width}.")
    offsets = np.arange(size)
    rows = np.arange(0, height - size + 1, step)[:, None] + offsets
    columns = np.arange(0, width - size + 1, step)[:, None] + offsets
    patches = jnp.take(x, rows, axis=-3)  # [..., rows, size, W, C]
    patches = jnp.take(patches, columns, axis=-2)  # [..., rows, size, columns, size, C]
    return jnp.swapaxes(patches, -4, -3)


def dihedral(image: ArrayLike, index: ArrayLike) -> Array:
    """Applies one of the eight symmetries of a square.

    Bit 0 of `index` mirrors left-right, bit 1 mirrors up-down, and bit 2 then transposes height and width.

    Args:
        image: `[..., H, W, C]`, any dtype.
        index: 0 to 7. A static integer works for every size; a traced scalar needs square images, and its
            higher bits are ignored. For one index per image, `jax.vmap` over both.

    Returns:
        `[..., H, W, C]`, or `[..., W, H, C]` if a static index transposes.

    Raises:
        ValueError: if the index is out of range or not a scalar, or is traced and the images are not square.
    """
    return _dihedral(image, index, inverse=False, function="dihedral")


def dihedral_inverse(image: ArrayLike, index: ArrayLike) -> Array:
    """Undoes `dihedral` with the same index.

    Args:
        image: `[..., H, W, C]`, the result of `dihedral(original, index)`.
        index: 0 to 7, static or traced as for `dihedral`.

    Returns:
        The original image.

    Raises:
        ValueError: as `dihedral`.
    """
    return _dihedral(image, index, inverse=True, function="dihedral_inverse")


def _dihedral(image: ArrayLike, index: ArrayLike, *, inverse: bool, function: str) -> Array:
    check_rank(image, function=function)
    if jnp.ndim(index) or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ValueError(
            f"{function}: index must be one integer from 0 to 7, but was {index!r}; "
            f"for one index per image use jax.vmap({function})(images, indices)."
        )
    x = jnp.asarray(image)
    steps = [
        (1, lambda x: jnp.flip(x, -2)),
        (2, lambda x: jnp.flip(x, -3)),
        (4, lambda x: jnp.swapaxes(x, -3, -2)),
    ]
    steps = steps[::-1] if inverse else steps
    if isinstance(index, jax.core.Tracer):
        if x.shape[-3] != x.shape[-2]:
            raise ValueError(
                f"{function}: a traced index needs square images, but was given {x.shape}; "
                f"use a static index."
            )
        for bit, move in steps:
            x = jnp.where((index & bit) != 0, move(x), x)
        return x
    number = int(np.asarray(index))
    if not 0 <= number <= 7:
        raise ValueError(f"{function}: index must be from 0 to 7, but was {number}.")
    for bit, move in steps:
        x = move(x) if number & bit else x
    return x
