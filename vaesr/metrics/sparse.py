"""Sparse feature fidelity (SFF), and the learning of its feature detector."""

import functools
import pathlib
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.metrics import filters
from vaesr.metrics.protocol import RGB, Protocol, prepare_colours

Array = jax.Array

_SIDE = 8
_VALUES = 3 * _SIDE * _SIDE
_FEATURES = 8
_LUMINANCE_SHARE, _VISIBLE, _C_FEATURE, _C_LUMINANCE = 0.8, 0.4, 0.08, 0.001
_DETECTOR = pathlib.Path(__file__).parent / "sff_detector.npy"


def sff(
    reference: ArrayLike,
    distorted: ArrayLike,
    *,
    protocol: Protocol = RGB,
    detector: ArrayLike | None = None,
) -> Array:
    """Returns the sparse feature fidelity of each image.

    Of 8x8 colour patches side by side, those that differ most are compared: the responses of a detector
    learned by independent component analysis, and the correlation of the patches' means. With the authors'
    matrix this is their `SFF.m` (version 2.0), which leaves out the last row and column of patches where the
    size is a multiple of 8. The default matrix was learned by `fit_sff_detector`; another one moves scores
    by about 0.01, so that they compare with figures of the same matrix only.

    Args:
        reference: `[B, H, W, C]` floating-point images of 1 or 3 channels in [0, `protocol.data_range`]; grey
            ones count as three equal channels.
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared.
        detector: `[features, 192]`, for patches flattened channel by channel, each by columns, on the 8-bit
            scale; None takes the one that comes with the library. See `load_sff_detector` for files.

    Returns:
        `[B]` float32 in [-1, 1]; 1 for identical images. Where the reference is flat, all patches count.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, 1 or 3]`, fewer than 17 pixels a side remain, or
            the detector has another shape.

    Source: Chang et al., "Sparse Feature Fidelity for Perceptual Image Quality Assessment", 2013, equations
      12 to 16.
    """
    x, y = prepare_colours(reference, distorted, protocol, function="sff", minimum=2 * _SIDE + 1)
    matrix = _own_detector() if detector is None else detector
    if jnp.ndim(matrix) != 2 or jnp.shape(matrix)[1] != _VALUES:
        raise ValueError(f"sff: detector must be [features, {_VALUES}], got shape {jnp.shape(matrix)}.")
    return _sff(x, y, jnp.asarray(matrix, jnp.float32))


@jax.jit
def _sff(x: Array, y: Array, detector: Array) -> Array:
    """SFF `[B]` of maps `[B, 3, H, W]` whose white is 1."""
    x, y = (_patches(_snap(255.0 * image)) for image in (x, y))
    mean_x, mean_y = x.mean(axis=-1), y.mean(axis=-1)
    # The half of the patches that differ most, in units that keep 8-bit images' ties exact.
    difference = x - y
    scaled = _VALUES * difference - difference.sum(axis=-1, keepdims=True)
    differ = _upper_half(jnp.abs(scaled).sum(axis=-1))
    lighter = jnp.abs(difference.sum(axis=-1))
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    a, b = (jnp.einsum("bpv,fv->bpf", i, detector, precision=jax.lax.Precision.HIGHEST) for i in (x, y))
    strength = jnp.square(a).sum(axis=-1)
    seen = differ & (strength > _VISIBLE * _mean(strength, differ)[:, None])
    seen = jnp.where(seen.any(axis=1, keepdims=True), seen, differ)
    features = _mean(filters.similarity(a, b, _C_FEATURE).mean(axis=-1), seen)
    # The same of the patches' means, by correlation.
    differ = _upper_half(lighter)
    u, v = (jnp.where(differ, i - _mean(i, differ)[:, None], 0.0) for i in (mean_x, mean_y))
    norms = filters.safe_sqrt(jnp.square(u).sum(axis=1)) * filters.safe_sqrt(jnp.square(v).sum(axis=1))
    luminance = ((u * v).sum(axis=1) + _C_LUMINANCE) / (norms + _C_LUMINANCE)
    return _LUMINANCE_SHARE * luminance + (1 - _LUMINANCE_SHARE) * features


def _snap(values: Array) -> Array:
    """Whole numbers, where float32 has rounded them away from it; the gradient is that of the values."""
    whole = jnp.round(values)
    near = jnp.abs(values - whole) < 1e-4
    return values + jax.lax.stop_gradient(jnp.where(near, whole - values, 0.0))


def _patches(maps: Array) -> Array:
    """Patches `[B, P, 192]` of maps `[B, 3, H, W]`, without the last ones of sizes that 8 divides."""
    batch, channels, height, width = maps.shape
    rows, columns = (height - 1) // _SIDE, (width - 1) // _SIDE
    cut = maps[..., : rows * _SIDE, : columns * _SIDE]
    # One axis at a time: so batches may be spread over devices under explicit sharding, too.
    cut = cut.reshape(batch, channels, rows, _SIDE, columns * _SIDE)
    cut = cut.reshape(batch, channels, rows, _SIDE, columns, _SIDE).transpose(0, 2, 4, 1, 5, 3)
    cut = cut.reshape(batch, rows * columns, channels, _SIDE, _SIDE)
    return cut.reshape(batch, rows * columns, _VALUES)


def _upper_half(values: Array) -> Array:
    """Which values `[B, P]` are at least the median of their image."""
    return values >= jax.lax.stop_gradient(filters.median(values))[:, None]


def _mean(values: Array, chosen: Array) -> Array:
    """Mean `[B]` of the chosen values `[B, P]`, of which there is at least one."""
    return jnp.where(chosen, values, 0.0).sum(axis=1) / chosen.sum(axis=1)


@functools.lru_cache(maxsize=1)
def _own_detector() -> np.ndarray:
    return load_sff_detector(_DETECTOR)


def load_sff_detector(path: str | pathlib.Path) -> np.ndarray:
    """Reads a feature detector: one of ours, or the authors' `W.mat`.

    Args:
        path: a `.npy` file, or a `.mat` file (which needs scipy) with a matrix named W.

    Returns:
        `[features, 192]` float32.

    Raises:
        ValueError: if the file holds no such matrix.
        OSError: if it cannot be read.
    """
    path = pathlib.Path(path)
    if path.suffix == ".mat":
        from scipy.io import loadmat

        found = loadmat(path).get("W")
    else:
        found = np.load(path, mmap_mode="r", allow_pickle=False)  # sizes are compared, nothing made
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != _VALUES:
        raise ValueError(f"{path} must hold a matrix [features, {_VALUES}] (in a .mat file named W)")
    return np.asarray(found, np.float32)


def fit_sff_detector(
    images: Iterable[np.ndarray], *, patches: int = 18_000, seed: int = 0, iterations: int = 2000
) -> np.ndarray:
    """Learns a feature detector from photographs by independent component analysis.

    As many patches from each photograph, their means removed, whitened and reduced to 8 dimensions by PCA;
    then symmetric FastICA with tanh.

    Args:
        images: uint8 RGB `[H, W, 3]`, sharp and uncompressed as far as possible, at least 8 pixels a side.
        patches: in all, at least 1,000.
        seed: of the patches' places and the first rotation.
        iterations: at most.

    Returns:
        `[8, 192]` float32. Rows may come in any order and with any sign: the score doesn't depend on it.

    Raises:
        ValueError: if there is no image, one is none or too small, a number is out of range, or the patches
            span fewer than 8 dimensions.

    Source: Chang et al. 2013, section III-A; Hyvarinen, "Fast and robust fixed-point algorithms for
      independent component analysis", 1999.
    """
    images = list(images)
    if not images or patches < 1000 or iterations < 1:
        raise ValueError(
            f"fit_sff_detector needs an image, 1,000 patches and an iteration, got {len(images)}, {patches} "
            f"and {iterations}."
        )
    rng = np.random.default_rng(seed)
    shares = np.diff(np.linspace(0, patches, len(images) + 1).astype(int))
    x = np.concatenate([_sample(image, share, rng) for image, share in zip(images, shares, strict=True)])
    x = x - x.mean(axis=1, keepdims=True)
    variances, directions = np.linalg.eigh(x.T @ x / len(x))
    variances, directions = variances[::-1][:_FEATURES], directions[:, ::-1][:, :_FEATURES]
    if not variances[-1] > 1e-6:
        raise ValueError("fit_sff_detector: the images' patches span fewer than 8 dimensions.")
    whiten = (directions / np.sqrt(variances)).T
    rotation = _fast_ica(x @ whiten.T, rng, iterations)
    return np.asarray(rotation @ whiten, np.float32)


def _sample(image: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Patches `[count, 192]` at random places of one image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < _SIDE:
        raise ValueError(
            f"fit_sff_detector: images must be uint8 [H, W, 3] of at least {_SIDE} pixels a side, got "
            f"{image.dtype} {image.shape}."
        )
    windows = np.lib.stride_tricks.sliding_window_view(image, (_SIDE, _SIDE), axis=(0, 1))
    rows, columns = (rng.integers(0, n, count) for n in windows.shape[:2])
    # Windows end in [3, row, column]; the reference flattens by columns.
    return windows[rows, columns].transpose(0, 1, 3, 2).reshape(count, _VALUES).astype(np.float64)


def _fast_ica(z: np.ndarray, rng: np.random.Generator, iterations: int) -> np.ndarray:
    """The rotation `[n, n]` that makes white data `[N, n]` independent."""

    def orthogonal(b: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(b @ b.T)
        return (vectors / np.sqrt(values)) @ vectors.T @ b

    b = orthogonal(rng.normal(size=(z.shape[1], z.shape[1])))
    for _ in range(iterations):
        hidden = np.tanh(z @ b.T)
        new = orthogonal(hidden.T @ z / len(z) - (1 - hidden**2).mean(axis=0)[:, None] * b)
        moved = np.abs(np.abs((new * b).sum(axis=1)) - 1).max()
        b = new
        if moved < 1e-9:
            break
    return b
