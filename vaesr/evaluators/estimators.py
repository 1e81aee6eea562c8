"""Bias and variance of the gradient estimators on functions whose gradients are known, as panels to draw."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import distributions, reports
from vaesr.distributions import Normal

_SCORE = distributions.score_function
ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
    "pathwise": distributions.pathwise,
    "score": _SCORE,
    "moving_average": _SCORE,  # its baseline comes from the training state
    "leave_one_out": functools.partial(_SCORE, baseline="leave_one_out"),
    "optimal": functools.partial(_SCORE, baseline="optimal"),
    "measure_valued": distributions.measure_valued,
}
LABELS = {
    "pathwise": "pathwise",
    "score": "score function",
    "moving_average": "score, moving average",
    "leave_one_out": "score, leave one out",
    "optimal": "score, optimal baseline",
    "measure_valued": "measure-valued",
}


def square(z: jax.Array) -> jax.Array:
    """Σ z² over the last axis, whose expectation has the gradient 2 mean."""
    return jnp.square(z).sum(axis=-1)


def step(z: jax.Array) -> jax.Array:
    """How many elements of the last axis are positive: its derivative is 0 wherever it exists."""
    return (z > 0.0).astype(jnp.float32).sum(axis=-1)


def own_mean(f: Any, q: Normal, key: jax.Array, *, samples: int) -> jax.Array:
    """The score function with the mean over all samples, the own one too, as baseline: a common mistake.

    Otherwise as the estimators; its gradient is too small by the factor 1 - 1/S, with S samples.
    """
    mean = distributions.pathwise(f, jax.lax.stop_gradient(q), key, samples=samples).mean(axis=0)
    return distributions.score_function(f, q, key, samples=samples, baseline=mean)


@functools.partial(jax.jit, static_argnames=("estimator", "f", "dimension", "samples", "repeats"))
def gradient_moments(
    estimator: Any, f: Any, key: jax.Array, *, dimension: int, samples: int, repeats: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of the gradient of E[f] by one element of the mean, at mean 1 and scale 1.

    The estimator is one of `vaesr.distributions`, `samples` are those of one gradient, and of `repeats`
    independent gradients the moments are taken. The elements of the D dimensions are exchangeable, and all
    are used.
    """

    def gradient(key: jax.Array) -> jax.Array:
        value = lambda mean: estimator(  # noqa: E731
            f, Normal(mean, jnp.zeros(dimension)), key, samples=samples
        ).mean()
        return jax.grad(value)(jnp.ones(dimension))

    chunk = max(1, min(repeats, 500_000 // (samples * dimension)))
    found = jax.lax.map(gradient, jax.random.split(key, repeats), batch_size=chunk)
    return found.mean(), found.var(axis=0).mean()


def panels(
    *, dimensions: Sequence[int], samples: Sequence[int], dimension: int, repeats: int
) -> list[reports.Panel]:
    """Measure bias and variance of every estimator; panels to draw.

    `samples`, at least 2, are those that a gradient estimate is averaged over, at `dimension`; means and
    variances are taken of `repeats` independent gradients, fewer where they would take too long.
    """
    names = [name for name in ESTIMATORS if name != "moving_average"]

    def measure(estimator: Any, f: Any, dimension: int, samples: int) -> tuple[float, float, float]:
        cost = samples * dimension * (4 * dimension if estimator is distributions.measure_valued else 1)
        count = int(max(100, min(repeats, 5e7 // cost)))
        mean, variance = gradient_moments(
            estimator, f, jax.random.key(0), dimension=dimension, samples=samples, repeats=count
        )
        return float(mean), float(variance), float((variance / (count * dimension)) ** 0.5)

    few = 4
    by_dimension = {n: [measure(ESTIMATORS[n], square, d, few) for d in dimensions] for n in names}
    by_samples = {n: [measure(ESTIMATORS[n], square, dimension, s) for s in samples] for n in names}
    jumps = {n: [measure(ESTIMATORS[n], step, dimension, s) for s in samples] for n in names}
    mistake = [measure(own_mean, square, dimension, s) for s in samples]
    d, s = np.array(dimensions), np.array(samples)
    slope = float(np.exp(-0.5) / np.sqrt(2 * np.pi))  # of P(z > 0) at mean 1: the density at 0

    def lines(x: np.ndarray, table: dict[str, Any], entry: int) -> list[reports.Line]:
        return [reports.Line(LABELS[n], x, [row[entry] for row in rows]) for n, rows in table.items()]

    def ratios(table: dict[str, Any], true: float) -> list[reports.Line]:
        return [
            reports.Line(name, s, [m / true for m, _, _ in rows], [2 * e / true for _, _, e in rows])
            for name, rows in table.items()
        ]

    labelled = lambda table: {LABELS[n]: rows for n, rows in table.items()}  # noqa: E731
    return [
        reports.Panel(
            f"Variance by dimension, {few} samples", "dimension D", "variance of the gradient",
            [
                *lines(d, by_dimension, 1),
                reports.Line(LABELS["pathwise"], d, np.full(len(d), 4 / few), dashed=True),
                reports.Line(LABELS["score"], d, score_variance(d) / few, dashed=True),
            ],
            log_x=True, log_y=True,
        ),
        reports.Panel(
            f"Variance by samples, D = {dimension}", "samples S", "variance of the gradient",
            [
                *lines(s, by_samples, 1),
                reports.Line(LABELS["pathwise"], s, 4 / s, dashed=True),
                reports.Line(LABELS["score"], s, score_variance(np.full(len(s), dimension)) / s, dashed=True),
            ],
            log_x=True, log_y=True,
        ),
        reports.Panel(
            f"Bias, f = Σ z², D = {dimension}", "samples S", "mean gradient / true gradient",
            ratios(labelled(by_samples) | {"score, own sample in the mean": mistake}, 2.0), log_x=True,
        ),
        reports.Panel(
            f"Bias, f = number of z > 0, D = {dimension}", "samples S", "mean gradient / true gradient",
            ratios(labelled(jumps), slope), log_x=True,
        ),
        _importance_panel(repeats),
    ]  # fmt: skip


def score_variance(dimension: np.ndarray) -> np.ndarray:
    """The variance of one sample's score-function gradient of E[Σ z²] by one mean, at mean 1 and scale 1.

    30 + 22 (D - 1) + 4 (D - 1)², with D the dimension.
    """
    return 30.0 + 22.0 * (dimension - 1) + 4.0 * (dimension - 1) ** 2


@functools.partial(jax.jit, static_argnames=("gradient", "k", "repeats"))
def _importance_ratio(key: jax.Array, *, gradient: str, k: int, repeats: int) -> jax.Array:
    """Signal-to-noise ratio of q's gradient of a K-sample bound; z ~ N(0, 1), x | z ~ N(z, 1), x = 2."""

    def value(q: Normal, key: jax.Array) -> jax.Array:
        log_joint = lambda z: -0.5 * (jnp.square(z) + jnp.square(2.0 - z)).sum(axis=-1)  # noqa: E731
        return distributions.importance_weighted(
            log_joint, q, key, importance_samples=k, gradient=gradient
        ).sum()

    q = Normal(jnp.full(1, 1.3), jnp.full(1, -0.4))  # near the posterior N(1, 1/2)
    batch = max(1, min(repeats, 500_000 // k))
    found = jax.lax.map(
        lambda key: jax.grad(value)(q, key).mean[0], jax.random.split(key, repeats), batch_size=batch
    )
    return jnp.abs(found.mean()) / found.std()


def _importance_panel(repeats: int) -> reports.Panel:
    counts = (1, 4, 16, 64, 256)
    labels = {"pathwise": "importance-weighted, plain", "dreg": "importance-weighted, doubly reparameterised"}
    lines = []
    for gradient, label in labels.items():
        ratio = [
            float(_importance_ratio(jax.random.key(0), gradient=gradient, k=k, repeats=repeats))
            for k in counts
        ]
        lines.append(reports.Line(label, counts, ratio))
    return reports.Panel(
        "Gradient of q in the K-sample bound", "importance samples K", "signal-to-noise ratio", lines,
        log_x=True, log_y=True,
    )  # fmt: skip
