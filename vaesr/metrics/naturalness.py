"""No-reference quality: NIQE, its pristine model, and the Perceptual Index that is made of it."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vaesr.files.arrays import read_npz
from vaesr.imaging import imresize, quantise
from vaesr.metrics import filters
from vaesr.metrics.protocol import MATLAB_GREY, Protocol, prepare_maps

Array = jax.Array

_BLOCK, _FEATURES = 96, 36
_WINDOW = filters.gaussian_taps(7, 7 / 6)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_PRISTINE = pathlib.Path(__file__).parent / "niqe_pristine.npz"
PIRM = Protocol(channels="y", shave=4, quantise=True)
"""The PIRM challenge's and ESRGAN's protocol for NIQE and the Perceptual Index: 8-bit studio Y, 4 shaved."""


class NiqeModel(NamedTuple):
    """The multivariate Gaussian of pristine photographs' features.

    Attributes:
        mean: `[36]`.
        covariance: `[36, 36]`.
    """

    mean: np.ndarray
    covariance: np.ndarray


def niqe(image: ArrayLike, *, protocol: Protocol = MATLAB_GREY, model: NiqeModel | None = None) -> Array:
    """Returns the natural image quality evaluator of each image: the lower, the more natural.

    The distance between the statistics of an image's 96x96 blocks and those of pristine photographs. Equals
    the authors' code to 0.001 with their parameters (the default), but for flat areas: there they divide
    rounding errors by one another, and the sign of the result depends on the order of summation (8.26 or 7.31
    for one JPEG image). Here flat means exactly 0 and takes part on neither side; blocks that are all flat
    are left out. No gradient flows: the fit looks its shape up in a table.

    Args:
        image: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        protocol: what is measured; by default MATLAB's 8-bit grey, as the authors do. `PIRM` is that of SR
            papers, which gives other numbers.
        model: of pristine images; None takes the authors' own (125 photographs). See `load_niqe_model` and
            `fit_niqe_model`.

    Returns:
        `[B]` float32, at least 0; NaN for an image without a block that is not flat.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if it is not `[B, H, W, C]` of one channel after the protocol, fewer than 96 pixels a side
            remain, or the model has another size.

    Source: Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", 2013,
      equation 10.
    """
    model = _authors_model() if model is None else model
    if np.shape(model.mean) != (_FEATURES,) or np.shape(model.covariance) != (_FEATURES, _FEATURES):
        raise ValueError(
            f"niqe: model must hold a mean [36] and a covariance [36, 36], got {np.shape(model.mean)} and "
            f"{np.shape(model.covariance)}."
        )
    grey = _levels(image, protocol, "niqe")
    return _niqe(grey, jnp.asarray(model.mean, jnp.float32), jnp.asarray(model.covariance, jnp.float32))


def _levels(image: ArrayLike, protocol: Protocol, function: str) -> Array:
    """Grey levels `[B, H, W]`, whole numbers under a quantising protocol, cut to whole blocks."""
    maps, _ = prepare_maps(image, image, protocol, function=function, minimum=_BLOCK)
    if maps.shape[1] != 1:
        raise ValueError(
            f'{function} measures one channel: give grey images, or protocol "grey" or "y"; this one leaves '
            f"{maps.shape[1]} of {jnp.shape(image)}."
        )
    maps = maps[:, 0]
    maps = jnp.round(255.0 * quantise(maps)) if protocol.quantise else 255.0 * maps
    height, width = (n // _BLOCK * _BLOCK for n in maps.shape[1:])
    return maps[:, :height, :width]


@jax.jit
def _niqe(grey: Array, mean: Array, covariance: Array) -> Array:
    features, _ = niqe_features(grey)
    held = jnp.isfinite(features).all(axis=-1)
    count = held.sum(axis=-1)
    features = jnp.where(held[..., None], features, 0.0)
    own_mean = features.sum(axis=1) / count[:, None]
    centred = jnp.where(held[..., None], features - own_mean[:, None], 0.0)
    own = jnp.einsum("bni,bnj->bij", centred, centred, precision=jax.lax.Precision.HIGHEST)
    own = own / jnp.maximum(count - 1, 1)[:, None, None]
    # In units of the pristine deviations: the features differ by orders of magnitude.
    unit = jnp.sqrt(jnp.diagonal(covariance))
    pooled = (covariance[None] + own) / 2 / (unit[:, None] * unit[None])[None]
    difference = (mean[None] - own_mean) / unit[None]
    solved = jnp.linalg.solve(pooled, difference[..., None])[..., 0]
    return jnp.sqrt(jnp.maximum((difference * solved).sum(axis=-1), 0.0))


def niqe_features(grey: Array) -> tuple[Array, Array]:
    """The features of every block, `[B, blocks, 36]`, NaN where it is flat, and its sharpness `[B, blocks]`.

    `grey` is `[B, H, W]` float32 on the 8-bit scale, sides multiples of 96; the sharpness is the mean local
    deviation.
    """
    found = []
    sharpness = None
    for scale in (1, 2):
        normalised, deviation = _local(grey)
        blocks = _blocks(normalised, _BLOCK // scale)
        found.append(_block_features(blocks))
        if scale == 1:
            sharpness = _blocks(deviation, _BLOCK).mean(axis=(-2, -1))
            grey = imresize(grey[..., None], 0.5)[..., 0]
            # Flat stays flat: a grid of 1/1024 level takes the rounding away.
            grey = jnp.round(1024 * grey) / 1024
    assert sharpness is not None
    return jnp.concatenate(found, axis=-1), sharpness


def _local(grey: Array) -> tuple[Array, Array]:
    """Mean subtracted contrast normalised values, and the local standard deviation.

    Sums run over differences from the centre, which float32 holds exactly: flat windows give exactly 0.
    """
    padded = filters.pad_maps(grey, 3, 3, mode="edge")
    height, width = grey.shape[-2:]
    first, second = jnp.zeros_like(grey), jnp.zeros_like(grey)
    for i, row in enumerate(_WINDOW):
        for j, column in enumerate(_WINDOW):
            difference = padded[..., i : i + height, j : j + width] - grey
            first, second = first + row * column * difference, second + row * column * difference**2
    deviation = jnp.sqrt(jnp.maximum(second - first**2, 0.0))
    return -first / (deviation + 1), deviation


def _blocks(maps: Array, side: int) -> Array:
    """`[B, H, W]` as `[B, blocks, side, side]`; the order of blocks doesn't matter."""
    batch, height, width = maps.shape
    cut = maps.reshape(batch, height // side, side, width // side, side)
    return cut.swapaxes(2, 3).reshape(batch, -1, side, side)


def _block_features(blocks: Array) -> Array:
    """18 features `[..., 18]` of blocks `[..., side, side]`: asymmetric Gaussians of values and products."""
    shape, left, right, _ = _asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right, ratio = _asymmetric_gaussian(blocks * jnp.roll(blocks, shift, axis=(-2, -1)))
        features += [shape, (right - left) * ratio, left, right]
    return jnp.stack(features, axis=-1)


def _asymmetric_gaussian(values: Array) -> tuple[Array, Array, Array, Array]:
    """Shape, left and right scale of the best asymmetric generalised Gaussian, and G(2/a) / G(1/a)."""
    squares = jnp.square(values)
    mean = lambda x: x.mean(axis=(-2, -1))  # noqa: E731
    side = lambda chosen: jnp.sqrt(  # noqa: E731
        jnp.where(chosen, squares, 0.0).sum(axis=(-2, -1)) / chosen.sum(axis=(-2, -1))
    )
    left, right = side(values < 0), side(values > 0)
    gamma = left / right
    ratio = jnp.square(mean(jnp.abs(values))) / mean(squares)
    wanted = ratio * (gamma**3 + 1) * (gamma + 1) / jnp.square(gamma**2 + 1)
    grid, ratios, scales, means = (jnp.asarray(table) for table in _tables())
    # The table rises: of the two neighbours the nearer one is its least squared difference.
    above = jnp.clip(jnp.searchsorted(ratios, wanted), 1, len(grid) - 1)
    nearer = jnp.abs(ratios[above - 1] - wanted) <= jnp.abs(ratios[above] - wanted)
    place = jnp.where(nearer, above - 1, above)
    return grid[place], left * scales[place], right * scales[place], means[place]


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, ...]:
    """Shapes 0.2 to 10 by 0.001; Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)); sqrt(G1 / G3); G2 / G1."""
    grid = 0.2 + 0.001 * np.arange(9801)
    g1, g2, g3 = (np.vectorize(math.lgamma)(k / grid) for k in (1, 2, 3))
    tables = grid, np.exp(2 * g2 - g1 - g3), np.exp((g1 - g3) / 2), np.exp(g2 - g1)
    return tuple(table.astype(np.float32) for table in tables)


@functools.lru_cache(maxsize=1)
def _authors_model() -> NiqeModel:
    return load_niqe_model(_PRISTINE)


def load_niqe_model(path: str | pathlib.Path) -> NiqeModel:
    """Reads a model of pristine images.

    Args:
        path: an `.npz` of ours (mean, covariance) or BasicSR's (mu_pris_param, cov_pris_param); or the
            authors' `modelparameters.mat` (mu_prisparam, cov_prisparam), which needs scipy.

    Returns:
        The model.

    Raises:
        ValueError: if the file holds no such arrays.
        OSError: if it cannot be read.
    """
    path = pathlib.Path(path)
    if path.suffix == ".mat":
        from scipy.io import loadmat

        held = loadmat(path)
    else:
        held = read_npz(path)
    for mean, covariance in (
        ("mean", "covariance"),
        ("mu_prisparam", "cov_prisparam"),
        ("mu_pris_param", "cov_pris_param"),
    ):
        if mean in held and covariance in held:
            model = NiqeModel(
                np.asarray(held[mean], np.float64).reshape(-1), np.asarray(held[covariance], np.float64)
            )
            if model.mean.shape == (_FEATURES,) and model.covariance.shape == (_FEATURES, _FEATURES):
                return model
    raise ValueError(f"{path} must hold a mean [36] and a covariance [36, 36] of NIQE's features")


def fit_niqe_model(images: Iterable[ArrayLike], *, sharpness: float = 0.75) -> NiqeModel:
    """Learns the model of pristine images from photographs.

    Args:
        images: uint8 or floats in [0, 1], `[H, W, C]`, RGB or grey, at least 96 pixels a side.
        sharpness: of each photograph the blocks count whose sharpness is above this share of its sharpest
            one's, in [0, 1).

    Returns:
        The model.

    Raises:
        ValueError: if a number is out of range, an image is too small, or fewer than 37 blocks count.

    Source: Mittal, Soundararajan and Bovik 2013, sections II-B and II-C.
    """
    if not 0 <= sharpness < 1:
        raise ValueError(f"fit_niqe_model: sharpness must lie in [0, 1), got {sharpness}.")
    parts = []
    for image in images:
        array = np.asarray(image)
        unit = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
        features, sharp = _features_of(_levels(unit[None], MATLAB_GREY, "fit_niqe_model"))
        chosen = np.asarray(features[0], np.float64)[np.asarray(sharp[0] > sharpness * sharp[0].max())]
        parts.append(chosen[np.isfinite(chosen).all(axis=1)])
    rows = np.concatenate(parts) if parts else np.zeros((0, _FEATURES))
    if len(rows) <= _FEATURES:
        raise ValueError(
            f"fit_niqe_model needs more than {_FEATURES} sharp blocks of 96 pixels, but found {len(rows)} in "
            f"{len(parts)} images: give more or larger photographs."
        )
    return NiqeModel(rows.mean(axis=0), np.cov(rows, rowvar=False))


_features_of = jax.jit(niqe_features)


def perceptual_index(
    image: ArrayLike,
    ma_score: Callable[[ArrayLike], ArrayLike],
    *,
    protocol: Protocol = PIRM,
    model: NiqeModel | None = None,
) -> Array:
    """Returns the Perceptual Index of each image, with Ma's score from a function of yours.

    ((10 - Ma) + NIQE) / 2: the lower, the better. Ma's score is three regression forests whose weights we
    have not got and must not make up (`model.mat` of the authors' repository): without it there is no
    Perceptual Index, only NIQE.

    Args:
        image: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        ma_score: `image -> [B]`, Ma's score of the very images.
        protocol: of NIQE; by default the challenge's.
        model: of NIQE; None takes the authors' own.

    Returns:
        `[B]` float32.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: as `niqe`, or if the scores are not `[B]`.

    Source: Blau et al., "The 2018 PIRM Challenge on Perceptual Image Super-Resolution", 2018, equation 1; Ma
      et al., "Learning a No-Reference Quality Metric for Single-Image Super-Resolution", 2017.
    """
    natural = niqe(image, protocol=protocol, model=model)
    ma = jnp.asarray(ma_score(image), jnp.float32)
    if ma.shape != natural.shape:
        raise ValueError(f"perceptual_index: ma_score must give {natural.shape} scores, got {ma.shape}.")
    return ((10.0 - ma) + natural) / 2
