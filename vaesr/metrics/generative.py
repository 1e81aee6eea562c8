"""How close two sets of images are, by the features of a network: FID, KID, precision and recall."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array


class FeatureStatistics(NamedTuple):
    """Number, mean and scatter of features: a pytree that grows by `merge_statistics`.

    Attributes:
        total: scalar, how many features.
        mean: `[D]`.
        scatter: `[D, D]`, the sum of outer products of deviations from the mean.
    """

    total: Array
    mean: Array
    scatter: Array


def feature_statistics(features: ArrayLike, *, valid: ArrayLike | None = None) -> FeatureStatistics:
    """Measures one batch of features.

    Under `jit` with a batch spread over devices these are the statistics of the whole batch: XLA adds what
    the devices find. Under `pmap` or `shard_map` each has its own; merge what `jax.lax.all_gather` brings.

    Args:
        features: `[B, D]` floating point.
        valid: `[B]` bool, which rows count; None is all. For a last batch that was filled up.

    Returns:
        Their statistics, float32.

    Raises:
        TypeError: if the features are not floating point.
        ValueError: if the shapes don't fit.
    """
    x = _features(features, "features", "feature_statistics")
    held = jnp.ones(x.shape[0], bool) if valid is None else jnp.asarray(valid)
    if held.shape != x.shape[:1] or held.dtype != bool:
        raise ValueError(
            f"feature_statistics: valid must be bool [{x.shape[0]}], got {held.dtype} {held.shape}."
        )
    count = held.sum(dtype=jnp.float32)
    x = jnp.where(held[:, None], x, 0.0)
    mean = x.sum(axis=0) / jnp.maximum(count, 1.0)
    centred = jnp.where(held[:, None], x - mean[None], 0.0)
    scatter = jnp.einsum("bi,bj->ij", centred, centred, precision=jax.lax.Precision.HIGHEST)
    return FeatureStatistics(count, mean, scatter)


def merge_statistics(first: FeatureStatistics, second: FeatureStatistics) -> FeatureStatistics:
    """Puts the statistics of two sets together.

    Means and scatters about them, not raw sums: nothing cancels, however long the stream.

    Args:
        first: of one set; a set of total 0 is neutral.
        second: of another.

    Returns:
        Those of their union.

    Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983, equation 2.1.
    """
    count = first.total + second.total
    share = second.total / jnp.maximum(count, 1.0)
    shift = second.mean - first.mean
    between = first.total * share * shift[:, None] * shift[None]
    return FeatureStatistics(count, first.mean + share * shift, first.scatter + second.scatter + between)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Returns the Fréchet distance of two Gaussians, FID where the features are InceptionV3's pool3.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with covariances over N - 1, in float64 on the host: the
    trace is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is never complex
    and needs no added diagonal. Figures of other features than published ones' mean other things, and FID is
    biased by the number of images: compare sets of one size only.

    Args:
        first: statistics of one set, of at least two features.
        second: of the other.

    Returns:
        At least 0.

    Raises:
        ValueError: if the dimensions differ, a set has fewer than two features, or any value is not finite.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
      Equilibrium", 2017, equation 6.
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = (
        _gaussian(statistics, name) for statistics, name in ((first, "first"), (second, "second"))
    )
    if mean_1.shape != mean_2.shape:
        raise ValueError(f"frechet_distance: features of {len(mean_1)} and of {len(mean_2)} dimensions.")
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariance_2 @ root)
    trace = np.sqrt(np.maximum(product, 0.0)).sum()
    apart = np.square(mean_1 - mean_2).sum()
    return max(0.0, float(apart + np.trace(covariance_1) + np.trace(covariance_2) - 2 * trace))


def _gaussian(statistics: FeatureStatistics, name: str) -> tuple[np.ndarray, np.ndarray]:
    count, mean, scatter = (np.asarray(part, np.float64) for part in statistics)
    if count < 2:
        raise ValueError(f"frechet_distance: {name} holds {count:g} features; at least 2 are needed.")
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise ValueError(f"frechet_distance: {name} holds values that are not finite.")
    return mean, scatter / (count - 1)


class KernelDistance(NamedTuple):
    """KID.

    Attributes:
        mean: over the subsets; unbiased, so it may be below 0.
        deviation: of the subsets' values.
    """

    mean: Array
    deviation: Array


def kernel_distance(
    first: ArrayLike, second: ArrayLike, *, key: Array, subsets: int = 100, subset_size: int = 1000
) -> KernelDistance:
    """Returns the kernel distance of two sets of features, KID where they are InceptionV3's pool3.

    The unbiased squared maximum mean discrepancy under the kernel (x'y / D + 1)^3, on random subsets.
    Published figures are often this times 1000.

    Args:
        first: `[N, D]` floating point.
        second: `[M, D]`.
        key: of the subsets.
        subsets: how many, at least 1.
        subset_size: features drawn of each set without replacement, at least 2; as many as the smaller set
            holds, if that is fewer.

    Returns:
        Mean and standard deviation over the subsets, float32.

    Raises:
        TypeError: if the features are not floating point.
        ValueError: if the dimensions differ, or a number is out of range.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 4 and equation 4.
    """
    x, y = _pair(first, second, "kernel_distance")
    size = min(subset_size, x.shape[0], y.shape[0])
    if subsets < 1 or size < 2:
        raise ValueError(
            f"kernel_distance: subsets must be at least 1 and subset_size and both sets at least 2, got "
            f"{subsets}, {subset_size}, {x.shape[0]} and {y.shape[0]}."
        )
    values = _subset_distances(x, y, jax.random.split(key, subsets), size)
    return KernelDistance(values.mean(), values.std())


@functools.partial(jax.jit, static_argnums=3)
def _subset_distances(x: Array, y: Array, keys: Array, size: int) -> Array:
    def kernel(a: Array, b: Array) -> Array:
        return (jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) / a.shape[1] + 1) ** 3

    def distance(key: Array) -> Array:
        a, b = (
            jax.random.choice(k, features, (size,), replace=False)
            for k, features in zip(jax.random.split(key), (x, y), strict=True)
        )
        across = kernel(a, b)
        # The three means are large and nearly equal: less a constant, which leaves the distance as it is, and
        # summed row by row, they keep their digits.
        level, others = across.mean(), 1 - jnp.eye(size)
        within = sum(((kernel(s, s) - level) * others).sum(axis=-1).sum() for s in (a, b))
        return within / (size * (size - 1)) - 2 * (across - level).mean(axis=-1).mean()

    return jax.lax.map(distance, keys)


class Manifolds(NamedTuple):
    """How much of each set lies within the other.

    Attributes:
        precision: share of the generated features inside the real ones' manifold: fidelity.
        recall: share of the real features inside the generated ones' manifold: variety.
        density: real neighbourhoods that a generated feature lies in, over k; above 1 is possible. Less moved
            by outliers than precision.
        coverage: share of the real features with a generated one in their neighbourhood.
    """

    precision: Array
    recall: Array
    density: Array
    coverage: Array


def precision_recall(
    real: ArrayLike, generated: ArrayLike, *, neighbours: int = 3, chunk: int = 1024
) -> Manifolds:
    """Returns improved precision and recall, and density and coverage.

    A set's manifold is the union of balls about its features, each as large as the distance to its k-th
    nearest neighbour among the others.

    Args:
        real: `[N, D]` floating point.
        generated: `[M, D]`.
        neighbours: k, at least 1 and below N and M; 3 for precision and recall, usually 5 for density and
            coverage.
        chunk: rows of the table of distances that are held at once.

    Returns:
        Four float32 scalars.

    Raises:
        TypeError: if the features are not floating point.
        ValueError: if the dimensions differ, or a number is out of range.

    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019,
      equations 1 to 3; Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
      equations 6 and 9.
    """
    x, y = _pair(real, generated, "precision_recall")
    if not 1 <= neighbours < min(x.shape[0], y.shape[0]) or chunk < 1:
        raise ValueError(
            f"precision_recall: neighbours must be at least 1 and below the sizes of both sets, "
            f"{x.shape[0]} and {y.shape[0]}, and chunk at least 1, got {neighbours} and {chunk}."
        )
    # Distances do not depend on the origin: near it, their squares lose least to rounding.
    origin = x.mean(axis=0, keepdims=True)
    return _manifolds(x - origin, y - origin, neighbours, chunk)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _manifolds(x: Array, y: Array, neighbours: int, chunk: int) -> Manifolds:
    # One more than k: the nearest of each feature is itself.
    radii_x, radii_y = (
        _by_rows(lambda d, _: -jax.lax.top_k(-d, neighbours + 1)[0][:, -1], i, i, chunk) for i in (x, y)
    )
    counts = _by_rows(lambda d, _: (d <= radii_x[None]).sum(axis=1), y, x, chunk)
    found = _by_rows(lambda d, _: (d <= radii_y[None]).any(axis=1), x, y, chunk)
    near = _by_rows(lambda d, r: (d <= r[:, None]).any(axis=1), x, y, chunk, radii_x)
    return Manifolds((counts > 0).mean(), found.mean(), counts.mean() / neighbours, near.mean())


def _by_rows(
    function: Callable[[Array, Array], Array], x: Array, y: Array, chunk: int, of_rows: Array | None = None
) -> Array:
    """Maps the squared distances from some rows of x to all of y, `[chunk, M]`, to one value a row."""
    count, chunk = x.shape[0], min(chunk, x.shape[0])
    more = -count % chunk
    of_rows = jnp.zeros(count) if of_rows is None else of_rows
    parts = jnp.pad(x, ((0, more), (0, 0))).reshape(-1, chunk, x.shape[1])
    norms = jnp.square(y).sum(axis=1)

    def of_part(part: tuple[Array, Array]) -> Array:
        rows, values = part
        product = jnp.matmul(rows, y.T, precision=jax.lax.Precision.HIGHEST)
        return function(jnp.square(rows).sum(axis=1)[:, None] + norms[None] - 2 * product, values)

    return jax.lax.map(of_part, (parts, jnp.pad(of_rows, (0, more)).reshape(-1, chunk))).reshape(-1)[:count]


def _features(features: ArrayLike, argument: str, function: str) -> Array:
    dtype = jnp.result_type(features)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{function}: {argument} must be floating point, but has dtype {dtype}.")
    if jnp.ndim(features) != 2 or 0 in jnp.shape(features):
        raise ValueError(f"{function}: {argument} must be [N, D], but has shape {jnp.shape(features)}.")
    return jnp.asarray(features, jnp.float32)


def _pair(first: ArrayLike, second: ArrayLike, function: str) -> tuple[Array, Array]:
    x, y = _features(first, "the first set", function), _features(second, "the second set", function)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{function}: features of {x.shape[1]} and of {y.shape[1]} dimensions.")
    return x, y
