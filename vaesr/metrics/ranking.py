"""Several metrics' rankings of the same images put together into one score."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array


def rank(scores: ArrayLike, *, higher_is_better: bool = True) -> Array:
    """Returns each image's place among all, 1 for the best; equal scores share the mean of their places.

    Jittable, not differentiable.

    Args:
        scores: `[..., N]`, finite.
        higher_is_better: False for GMSD, LPIPS, DISTS and NIQE.

    Returns:
        `[..., N]` float32 in [1, N].

    Raises:
        ValueError: if there is nothing to rank.
    """
    x = jnp.asarray(scores)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"rank: scores must be [..., N] with N at least 1, got shape {x.shape}.")
    x = -x if higher_is_better else x
    flat = x.reshape(-1, x.shape[-1])

    def twice(row: Array) -> Array:
        """The first and the last place of each score, added; counted from 0 and from 1."""
        ordered = jnp.sort(row)
        return jnp.searchsorted(ordered, row) + jnp.searchsorted(ordered, row, side="right")

    return ((jax.vmap(twice)(flat) + 1) / 2).astype(jnp.float32).reshape(x.shape)


def reciprocal_rank_fusion(
    scores: ArrayLike,
    *,
    higher_is_better: Sequence[bool],
    k: float = 60.0,
    weights: ArrayLike | None = None,
) -> Array:
    """Returns one score an image from several metrics' rankings: the sum of w / (k + rank).

    The score of an image depends on all others that were ranked with it: it orders a set, and means nothing
    outside of it. A small k lets the first places decide; with k of about N the result is close to Borda's.

    Args:
        scores: `[M, N]`, what M metrics say of N images, finite.
        higher_is_better: of each metric.
        k: at least 0; 60 is customary.
        weights: `[M]`, at least 0, of the metrics; None is 1 each.

    Returns:
        `[N]` float32, the higher, the better.

    Raises:
        ValueError: if the shapes don't fit or k is below 0.

    Source: Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank
      Learning Methods", 2009; for image quality Ye, Kumar and Doermann, "Beyond Human Opinion Scores: Blind
      Image Quality Assessment Based on Synthetic Scores" (BLISS), 2014, and Athar and Wang, "A Comprehensive
      Performance Evaluation of Image Quality Assessment Algorithms", 2019.
    """
    if not k >= 0:
        raise ValueError(f"reciprocal_rank_fusion: k must be at least 0, got {k}.")
    ranks, w = _ranks(scores, higher_is_better, weights, "reciprocal_rank_fusion")
    return (w / (k + ranks)).sum(axis=0)


def borda_fusion(
    scores: ArrayLike, *, higher_is_better: Sequence[bool], weights: ArrayLike | None = None
) -> Array:
    """Returns one score an image from several metrics' rankings: the mean share of the images it beats.

    Args:
        scores: `[M, N]`, what M metrics say of N images, finite.
        higher_is_better: of each metric.
        weights: `[M]`, at least 0, of the metrics; None is 1 each.

    Returns:
        `[N]` float32 in [0, 1], the higher, the better.

    Raises:
        ValueError: if the shapes don't fit.

    Source: de Borda, "Mémoire sur les élections au scrutin", 1781.
    """
    ranks, w = _ranks(scores, higher_is_better, weights, "borda_fusion")
    beaten = (ranks.shape[1] - ranks) / max(1, ranks.shape[1] - 1)
    return (w * beaten).sum(axis=0) / w.sum()


def _ranks(
    scores: ArrayLike, higher_is_better: Sequence[bool], weights: ArrayLike | None, function: str
) -> tuple[Array, Array]:
    x = jnp.asarray(scores)
    if x.ndim != 2 or x.shape[0] != len(higher_is_better):
        raise ValueError(
            f"{function}: scores must be [M, N] with one direction a metric, got shape {x.shape} and "
            f"{len(higher_is_better)} directions."
        )
    w = jnp.ones(x.shape[0]) if weights is None else jnp.asarray(weights, jnp.float32)
    if w.shape != x.shape[:1]:
        raise ValueError(f"{function}: weights must be [{x.shape[0]}], got shape {w.shape}.")
    sign = jnp.where(jnp.asarray(list(higher_is_better)), 1.0, -1.0)
    return rank(x * sign[:, None]), w[:, None]


def isotonic_calibration(fused: ArrayLike, base: ArrayLike, *, higher_is_better: bool = True) -> np.ndarray:
    """Returns a metric's scores, changed as little as makes them follow a fused ranking.

    Fused scores only order images. The least-squares fit of a metric that rises with them has their order and
    about the metric's distances, which is what a linear correlation needs. On the host.

    Args:
        fused: `[N]`, for example of `reciprocal_rank_fusion`.
        base: `[N]`, one metric's scores of the same images.
        higher_is_better: of the base metric.

    Returns:
        `[N]` float64, in the base metric's unit and direction.

    Raises:
        ValueError: if the shapes don't fit.

    Source: Ye, Kumar and Doermann (BLISS), 2014, section 3.2; Barlow et al., "Statistical Inference under
      Order Restrictions", 1972.
    """
    from scipy.optimize import isotonic_regression

    order, values = (np.asarray(i, np.float64) for i in (fused, base))
    if order.ndim != 1 or order.shape != values.shape:
        raise ValueError(
            f"isotonic_calibration: fused and base must both be [N], got {order.shape} and {values.shape}."
        )
    # Images of equal rank get one value: the fit of their mean.
    levels, group, counts = np.unique(order, return_inverse=True, return_counts=True)
    means = np.bincount(group, values, minlength=len(levels)) / counts
    return np.asarray(isotonic_regression(means, weights=counts, increasing=higher_is_better).x)[group]
