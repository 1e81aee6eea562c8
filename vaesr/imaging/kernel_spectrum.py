"""How wide a photo's blur is, from its spectrum alone: what is lost from one octave to the next.

A photo y was blurred by k and subsampled by s. Its power at frequency w (radians a pixel of y) is that of the
sharp image at w / s, times |K(w / s)|². Sharp photos look alike at all scales: from w / 2 to w their power
falls by a factor that does not depend on w. So

    log S_y(w) - log S_y(w / 2) = c + log |K(w / s)|² - log |K(w / 2 s)|²

and of a Gaussian of covariance C, in pixels of the sharp image, the right side is c - (3/4) wᵀ C w / s²:
linear in C, whichever direction the blur has. KernelGAN's critic compares the same two scales.
"""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

_SIDE = 64  # of the windows that spectra are of
_LOW, _HIGH = 0.4, 2.5  # radians a pixel, of the larger frequency of a pair
_MOST = 4000  # windows
_ROUNDING = 1 / 12  # variance of rounding to whole levels
_ROUNDS = 8


class BlurSpread(NamedTuple):
    """An estimate of a blur's covariance.

    Attributes:
        covariance: `[2, 2]`, x before y, in squared pixels of the sharp image.
        pairs: of frequencies that it rests on; 0 where they were too few, and it is what was known before.
    """

    covariance: Array
    pairs: int


def estimate_spread(
    image: np.ndarray, *, scale: int = 2, prior: Any = None, deviation: float = 0.7, independence: float = 0.1
) -> BlurSpread:
    """Estimates the covariance of the blur by which a photo was made small.

    Args:
        image: `[H, W, C]` uint8 of 64 pixels and more a side.
        scale: that it was made small by.
        prior: `[2, 2]`, a covariance to begin with; None for none.
        deviation: standard deviation of each of its numbers from the truth, in squared pixels.
        independence: share of the pairs of frequencies that count as measurements of their own; neighbours
            tell the same.

    Returns:
        The covariance; its eigenvalues are at least 0.05.

    Raises:
        ValueError: if the image is smaller, or of another type.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < _SIDE:
        raise ValueError(
            f"estimate_spread: image has shape {image.shape} and type {image.dtype}; expected [H, W, C] of "
            f"uint8 with sides of {_SIDE} and more."
        )
    power, noise = _spectrum(image)
    half = _SIDE // 2
    steps = np.arange(-half + 2, half, 2)
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    x, y = 2 * np.pi * columns / _SIDE, 2 * np.pi * rows / _SIDE
    upper, lower = power[rows % _SIDE, columns % _SIDE], power[rows // 2 % _SIDE, columns // 2 % _SIDE]
    radius = np.hypot(x, y)
    used = (radius > _LOW) & (radius < _HIGH) & (upper > 2 * noise)
    start = np.zeros(4) if prior is None else np.array([0.0, prior[0][0], prior[0][1], prior[1][1]])
    count = int(used.sum())
    if count < 12:  # nothing but noise: what was known before
        return BlurSpread(_bounded(start if prior is not None else np.array([0, 1.0, 0, 1.0])), 0)
    upper, lower = upper[used], np.maximum(lower[used] - noise, 0.05 * noise)
    fall = np.log(np.maximum(upper - noise, 0.05 * noise)) - np.log(lower)
    factor = -0.75 / scale**2
    x, y = x[used], y[used]
    design = np.stack([np.ones(count), factor * x * x, 2 * factor * x * y, factor * y * y], axis=1)
    # Where the rounding to whole levels is a good part of the power, its logarithm is uncertain.
    trust = 1 / (1 + (3 * noise / np.maximum(upper - noise, 1e-9)) ** 2)
    known = np.diag([0.0, *[0.0 if prior is None else 1 / deviation**2] * 3])
    weight, variance, found = trust, 1.0, start
    for _ in range(_ROUNDS):  # least squares in which a pair far off counts less
        scaled = weight * (independence / variance)
        found = np.linalg.solve(
            (design * scaled[:, None]).T @ design + known + 1e-9 * np.eye(4),
            (design * scaled[:, None]).T @ fall + known @ start,
        )
        rest = fall - design @ found
        typical = np.median(np.abs(rest)) + 1e-9
        weight = trust / (1 + (rest / typical) ** 2)
        variance = float(np.average(rest**2, weights=weight)) + 1e-9
    return BlurSpread(_bounded(found), count)


def _bounded(found: Array) -> Array:
    values, vectors = np.linalg.eigh(np.array([[found[1], found[2]], [found[2], found[3]]]))
    bounded: Array = (vectors * np.maximum(values, 0.05)) @ vectors.T
    return bounded


def _spectrum(image: np.ndarray) -> tuple[Array, float]:
    """Mean power of windows that overlap by half, all channels together; and that of the rounding."""
    taper = np.hanning(_SIDE)[:, None] * np.hanning(_SIDE)[None]
    corners = [
        (top, left)
        for top in range(0, image.shape[0] - _SIDE + 1, _SIDE // 2)
        for left in range(0, image.shape[1] - _SIDE + 1, _SIDE // 2)
    ]
    total = np.zeros((_SIDE, _SIDE))
    chosen = corners[:: -(-len(corners) // _MOST)]
    for top, left in chosen:
        window = image[top : top + _SIDE, left : left + _SIDE].astype(np.float64)
        window = window - (window * taper[..., None]).sum((0, 1)) / taper.sum()
        total += (np.abs(np.fft.fft2(window * taper[..., None], axes=(0, 1))) ** 2).sum(-1)
    return total / len(chosen), image.shape[2] * float((taper**2).sum()) * _ROUNDING
