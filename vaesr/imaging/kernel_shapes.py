"""Blur kernels on the host, by SciPy: shifting, cleaning and enlarging them, and drawing random ones."""

import functools
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

# Before a shift a kernel gets this many rows and columns of zeros around it beyond the shift itself.
_SAFETY = 1


def wanted_centre(side: int, scale: int) -> float:
    """Gives where a kernel's centre of mass belongs, so that subsampling moves nothing.

    Args:
        side: of the kernel.
        scale: of the subsampling that keeps pixels 0, scale, ...

    Returns:
        side // 2 + (scale - side mod 2) / 2, in pixels from the first entry's centre; of kernels with an odd
        side, that is the middle of the block of pixels that one low-resolution pixel stands for.

    Source: KernelGAN's and ZSSR's `kernel_shift`, with Python 2's division.
    """
    return side // 2 + (scale - side % 2) / 2


def kernel_shift(kernel: Any, scale: int, *, grow: bool = True) -> Array:
    """Shifts a kernel by cubic splines until its centre of mass is where `wanted_centre` says.

    Args:
        kernel: `[K, L]` of a sum that is not 0.
        scale: of the subsampling.
        grow: pad the kernel first, so that nothing is lost; then K and L grow by an even number.

    Returns:
        float64 `[K', L']`; its sum is that of the kernel up to the splines' rounding.

    Raises:
        ValueError: if it is no kernel of a sum other than 0.

    Source: KernelGAN's `kernel_shift` (grow) and that of DIV2KRK's generator (no grow).
    """
    ndimage = _ndimage()
    k = checked_kernel(kernel)
    shift = np.array([wanted_centre(n, scale) for n in k.shape]) - _centre(k)
    if grow:
        k = np.pad(k, int(np.ceil(np.abs(shift).max())) + _SAFETY)
    return np.asarray(ndimage.shift(k, shift), np.float64)


def clean_kernel(kernel: Any, *, entries: int = 40, scale: int = 2) -> Array:
    """Takes the small entries out of an estimated kernel and centres it.

    Three quarters of the entry after the largest `entries` are subtracted from all; what is negative then
    becomes 0, and the rest is normalised and shifted.

    Args:
        kernel: `[K, K]`.
        entries: that are surely kept.
        scale: of the subsampling, see `kernel_shift`.

    Returns:
        float64 `[K', K']` of a sum of 1, K' larger than K.

    Raises:
        ValueError: if nothing is left.

    Source: KernelGAN's `post_process_k`.
    """
    k = checked_kernel(kernel)
    least = 0.75 * np.sort(k.ravel())[-entries - 1] if k.size > entries else 0.0
    kept = np.maximum(k - least, 0)
    if not kept.sum() > 0:
        raise ValueError("clean_kernel: the kernel has no entry above the others.")
    return kernel_shift(kept / kept.sum(), scale)


def kernel_of_twice(kernel: Any) -> Array:
    """Makes of a kernel for a scale of 2 the one for 4: that of shrinking twice.

    Args:
        kernel: `[K, K]`, correlated.

    Returns:
        float64 `[3 K - 2, 3 K - 2]` without the K // 2 outermost rows and columns on each side, of sum 1.

    Raises:
        ValueError: if it is no square kernel.

    Source: Bell-Kligler et al. 2019 (KernelGAN), section 4.4; its `analytic_kernel`.
    """
    k = checked_kernel(kernel)
    if k.shape[0] != k.shape[1]:
        raise ValueError(f"kernel_of_twice: kernel has shape {k.shape}; expected a square.")
    side = k.shape[0]
    whole = np.zeros((3 * side - 2, 3 * side - 2))
    for row in range(side):
        for column in range(side):
            whole[2 * row : 2 * row + side, 2 * column : 2 * column + side] += k[row, column] * k
    cut = side // 2
    inner = whole[cut:-cut, cut:-cut] if cut else whole
    return inner / inner.sum()


def random_kernel(seed: int | np.random.Generator, *, scale: int = 2) -> Array:
    """Draws a kernel in the manner of DIV2KRK: a Gaussian of random covariance with uneven entries.

    The variances along the two axes are uniform in [0.175 scale, 2.5 scale], the angle is uniform, entries
    are multiplied by 1 ± 0.25 (scale 2; ± 0.4 from 4 on). Correlate with mirrored borders and keep pixels
    0, scale, ... : `vaesr.imaging.downsample`.

    Args:
        seed: of the drawing, or a generator.
        scale: of the subsampling; the kernel's side is 11 up to 3, 21 from there.

    Returns:
        float64 `[11, 11]` or `[21, 21]` of sum 1.

    Source: the generator of DIV2KRK (Bell-Kligler et al. 2019), with Python 2's division.
    """
    rng = np.random.default_rng(seed)
    side, unevenness = (11, 0.25) if scale < 4 else (21, 0.4)
    variances = rng.uniform(0.175 * scale, 2.5 * scale, 2)
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.diag(variances) @ turn.T)
    at = np.arange(side) - wanted_centre(side, scale)
    places = np.stack(np.meshgrid(at, at), axis=-1)
    bell = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", places, inverse, places))
    uneven = bell * (1 + rng.uniform(-unevenness, unevenness, bell.shape))
    shifted = kernel_shift(uneven, scale, grow=False)
    return shifted / shifted.sum()


def gaussian_of(covariance: Any, side: int, *, scale: int = 2) -> Array:
    """Makes the Gaussian of a covariance, its centre where subsampling wants it.

    Args:
        covariance: `[2, 2]`, x before y, in squared pixels.
        side: of the result.
        scale: of the subsampling, see `wanted_centre`.

    Returns:
        float64 `[side, side]` of sum 1.

    Raises:
        ValueError: if the covariance is not positive definite.
    """
    spread = np.asarray(covariance, np.float64)
    if spread.shape != (2, 2) or not np.linalg.eigvalsh(spread).min() > 0:
        raise ValueError(
            f"gaussian_of: covariance must be [2, 2] and positive definite, but was {spread.tolist()}."
        )
    at = np.arange(side) - wanted_centre(side, scale)
    places = np.stack(np.meshgrid(at, at), axis=-1)
    bell = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", places, np.linalg.inv(spread), places))
    whole: Array = bell / bell.sum()
    return whole


def kernel_covariance(kernel: Any) -> Array:
    """Gives the covariance of a kernel, taken as a density.

    Args:
        kernel: `[K, L]` of a sum that is not 0.

    Returns:
        float64 `[2, 2]`, x before y, in squared pixels.

    Raises:
        ValueError: if it is no kernel of a sum other than 0.
    """
    k = checked_kernel(kernel)
    k = k / k.sum()
    row, column = _centre(k)
    y, x = np.arange(k.shape[0]) - row, np.arange(k.shape[1]) - column
    across, down, both = k.sum(0) @ x**2, k.sum(1) @ y**2, y @ k @ x
    return np.array([[across, both], [both, down]])


def bicubic_kernel(scale: int) -> Array:
    """Gives the kernel of MATLAB's bicubic reduction, as one that is correlated and then subsampled.

    Args:
        scale: of the reduction, an integer.

    Returns:
        float64 `[K, K]` of an odd side, 5 scale or one more, and sum 1, centred for `downsample`.

    Source: MATLAB's `imresize`; at 2 the outer product of [-3, -9, 29, 111, 111, 29, -9, -3] / 256.
    """
    side = 5 * scale + (1 - 5 * scale % 2)
    at = np.abs(np.arange(side) - wanted_centre(side, scale)) / scale
    near = (1.5 * at - 2.5) * at**2 + 1
    far = ((-0.5 * at + 2.5) * at - 4) * at + 2
    row = np.where(at <= 1, near, np.where(at <= 2, far, 0.0))
    whole = np.outer(row, row)
    return whole / whole.sum()


def fit_kernel(kernel: Any, side: int, *, scale: int = 2) -> Array:
    """Shifts a kernel's centre of mass to its place in a square of another side, and cuts or pads it to that.

    Args:
        kernel: `[K, L]`.
        side: of the result.
        scale: of the subsampling, see `wanted_centre`.

    Returns:
        float64 `[side, side]`.

    Raises:
        ValueError: if it is no kernel of a sum other than 0.
    """
    k = checked_kernel(kernel)
    room = max(side, *k.shape) + 2 * (_SAFETY + 2)
    frame = np.zeros((side + 2 * room, side + 2 * room))
    frame[room : room + k.shape[0], room : room + k.shape[1]] = k
    shift = room + wanted_centre(side, scale) - _centre(frame)
    whole = np.round(shift)
    frame = np.roll(frame, whole.astype(int), (0, 1))
    if np.abs(shift - whole).max() > 1e-9:
        frame = _ndimage().shift(frame, shift - whole)
    return np.asarray(frame[room : room + side, room : room + side])


def checked_kernel(kernel: Any) -> Array:
    """Gives a kernel as float64; a ValueError if it is none.

    Args:
        kernel: `[K, L]`, finite, of a sum that is not 0.

    Returns:
        The same.

    Raises:
        ValueError: if it is not such.
    """
    k = np.asarray(kernel, np.float64)
    if k.ndim != 2 or not k.size or not np.isfinite(k).all() or abs(k.sum()) < 1e-12:
        raise ValueError(f"kernel must be [K, L], finite and of a sum that is not 0; its shape is {k.shape}.")
    return k


def _centre(kernel: Array) -> Array:
    total = kernel.sum()
    rows, columns = (np.arange(n) for n in kernel.shape)
    return np.array([kernel.sum(1) @ rows, kernel.sum(0) @ columns]) / total


@functools.cache
def _ndimage() -> Any:
    import scipy.ndimage  # JAX brings it

    return scipy.ndimage
