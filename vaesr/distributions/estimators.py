"""Gradients of expectations E_q[f(z)], every estimator behind one signature.

    values = ESTIMATOR(f, q, key, samples=S)        # [S, ...]: f of S samples of q
    gradient = jax.grad(lambda q: ESTIMATOR(f, q, key, samples=S).mean(axis=0).sum())(q)

The values are those of `f`; what differs is the gradient that flows to the parameters of `q`. It is unbiased
for every estimator, and exists for the first derivative only. Parameters that `f` itself holds (a decoder's)
get their ordinary gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import keys_shape

Function = Callable[[jax.Array], jax.Array]
"""`f(z [..., event...]) -> [...]`: one number per element of the leading axes of `z`."""

_BASELINES = ("none", "leave_one_out", "optimal")


class MovingAverage(NamedTuple):
    """An exponential moving average of `f`, the baseline of `score_function` that costs nothing.

    Attributes:
        total: float32 scalar, the decayed sum of past means.
        weight: float32 scalar, the decayed count that `total` is divided by (no bias towards zero at first).
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def create(cls) -> "MovingAverage":
        """Start with nothing seen, a baseline of zero."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    @property
    def value(self) -> jax.Array:
        """The average so far, a float32 scalar; 0 before the first update."""
        return self.total / jnp.maximum(self.weight, jnp.finfo(jnp.float32).tiny)

    def update(self, values: jax.Array, *, decay: float = 0.99) -> "MovingAverage":
        """Add the mean of a step's values; use the old average as that step's baseline, or it is biased."""
        mean = jax.lax.stop_gradient(jnp.asarray(values, jnp.float32).mean())
        return MovingAverage(decay * self.total + (1 - decay) * mean, decay * self.weight + (1 - decay))


def pathwise(f: Function, q: Any, key: jax.Array, *, samples: int = 1) -> jax.Array:
    """Estimate E_q[f] with the pathwise gradient: the samples are functions of q's parameters.

    Low variance, but `f` must be differentiable and `q` reparameterisable.

    Args:
        f: `f(z) -> [...]`, from values of the shape of `q` to the leading axes of that shape.
        q: a reparameterisable distribution such as `Normal`.
        key: one random key, or `[B]` keys from `example_keys`, one per element of the leading axis of `q`.
        samples: S, at least 1.

    Returns:
        `[S, ...]` float32, `f` at S samples; gradients flow to `q` through the samples.

    Raises:
        ValueError: if `q` can't be reparameterised, `samples` is below 1, or `f`'s result doesn't fit `q`.

    Source: Kingma and Welling 2014, section 2.3; Mohamed et al. 2020, section 5.
    """
    if not q.reparameterised:
        raise ValueError(
            f"pathwise needs a distribution whose samples are differentiable, got {type(q).__name__}; "
            "use score_function."
        )
    return evaluate_samples(f, draw_samples(q, key, samples))


def score_function(
    f: Function, q: Any, key: jax.Array, *, samples: int = 1, baseline: str | jax.Array | float = "none"
) -> jax.Array:
    """Estimate E_q[f] with the score-function (log-derivative, REINFORCE) gradient.

    Needs nothing of `f` but its values, and of `q` only its log-density, so that `f` may jump and `q` be
    discrete. Its variance grows with the dimension and the size of `f`; a baseline, a number that doesn't
    depend on the sample, is taken from `f` and leaves the mean as it is.

    Args:
        f: `f(z) -> [...]`, from values of the shape of `q` to the leading axes of that shape.
        q: a distribution with `log_prob`, such as `Normal` or `Bernoulli`.
        key: one random key, or `[B]` keys from `example_keys`, one per element of the leading axis of `q`.
        samples: S, at least 1; at least 2 for the baselines that the other samples give.
        baseline: "none"; "leave_one_out", the mean of `f` over the other samples (VIMCO's and RLOO's);
            "optimal", for each parameter the number that minimises its variance, E[f s²] / E[s²] with s its
            score, estimated from the other samples; or a number or array that broadcasts to `[S, ...]`, such
            as `MovingAverage.value`.

    Returns:
        `[S, ...]` float32, `f` at S samples; gradients flow to `q` through its log-density.

    Raises:
        ValueError: if `baseline` is unknown, `samples` is too small, or `f`'s result doesn't fit `q`.

    Source: Williams 1992; Mohamed et al. 2020, section 4 (equation 13) and 7.4.1 (optimal baseline); Mnih and
      Rezende 2016 and Kool et al. 2019 (leave-one-out).
    """
    _check_baseline(baseline, samples)
    z = jax.lax.stop_gradient(draw_samples(q, key, samples))
    values = evaluate_samples(f, z)
    # Parameters of full shape, so that each element has its own score; broadcasting sums the gradients up.
    full = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, jnp.float32), z.shape[1:]), q)
    fixed = jax.lax.stop_gradient(full)
    scores = jax.vmap(jax.grad(lambda q, z: q.log_prob(z).sum()), in_axes=(None, 0))(fixed, z)
    cost = jax.lax.stop_gradient(values).reshape(values.shape + (1,) * (z.ndim - values.ndim))

    def surrogate(leaf: jax.Array, score: jax.Array) -> jax.Array:
        if isinstance(baseline, str):
            number = _baseline(baseline, cost, score)
        else:
            number = jnp.broadcast_to(_lift(baseline, values.ndim), values.shape).reshape(cost.shape)
            number = jax.lax.stop_gradient(number)
        weighted = (cost - number) * score * jnp.broadcast_to(leaf[None], score.shape)
        return weighted.sum(axis=tuple(range(values.ndim, z.ndim)))

    terms = jax.tree.leaves(jax.tree.map(surrogate, full, scores))
    return with_gradient(values, sum(terms, start=jnp.zeros_like(values)))


def draw_samples(q: Any, key: jax.Array, samples: int) -> jax.Array:
    """Draw `[S, ...]` float32 samples whose values don't depend on how many are drawn.

    `q` has `sample` and `sample_examples`; `key` is one random key, or `[B]` keys, one per element of the
    leading axis of `q`. Sample s is drawn with `fold_in(key, s)`, differentiable where `q` is
    reparameterised. A ValueError if `samples` is below 1, or `q` needs one key per example.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    per_example = len(keys_shape(key)) == 1
    if not per_example and not hasattr(q, "sample"):
        raise ValueError(
            f"{type(q).__name__} is drawn with one key per example: give keys [B], from example_keys."
        )

    def one(index: jax.Array) -> jax.Array:
        if per_example:
            return q.sample_examples(jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, index))
        return q.sample(jax.random.fold_in(key, index))

    return jax.vmap(one)(jnp.arange(samples))


def with_gradient(values: jax.Array, surrogate: jax.Array) -> jax.Array:
    """Give values, unchanged where a surrogate of their shape is finite, the additional gradient of it."""
    return values + (surrogate - jax.lax.stop_gradient(surrogate))


def evaluate_samples(f: Function, z: jax.Array) -> jax.Array:
    """Compute `f`, as the estimators take it, of samples `[S, ..., event...]`: `[S, ...]` float32.

    A ValueError if it gives anything but one number per element of leading axes of `z[0]`.
    """
    values = jax.vmap(f)(z).astype(jnp.float32)
    if values.shape != z.shape[: values.ndim]:
        raise ValueError(
            f"f must map values {z.shape[1:]} to leading axes of that shape, got {values.shape[1:]}."
        )
    return values


def _baseline(name: str, cost: jax.Array, score: jax.Array) -> jax.Array:
    """The number to take from the cost of each sample, from the other samples."""
    if name == "none":
        return jnp.zeros_like(cost)
    weight = jnp.square(score) if name == "optimal" else jnp.ones_like(cost)
    others = _sum_of_others(weight)
    # Scores of exactly zero in all other samples leave nothing to divide by, and the baseline free.
    safe = jnp.maximum(others, jnp.finfo(jnp.float32).tiny)
    return _sum_of_others(jnp.broadcast_to(cost, weight.shape) * weight) / safe


def _sum_of_others(x: jax.Array) -> jax.Array:
    """For each entry of the first axis, the sum of the others.

    As sums from either end: total less own entry would leave nothing but rounding where that is the largest.
    """
    zero = jnp.zeros_like(x[:1])
    before = jnp.cumsum(jnp.concatenate([zero, x[:-1]]), axis=0)
    after = jnp.cumsum(jnp.concatenate([zero, x[:0:-1]]), axis=0)[::-1]
    return before + after


def _lift(baseline: jax.Array | float, rank: int) -> jax.Array:
    """Give a baseline leading axes of 1 up to `rank`."""
    array = jnp.asarray(baseline, jnp.float32)
    if array.ndim > rank:
        raise ValueError(f"baseline must broadcast to rank {rank}, got shape {array.shape}.")
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _check_baseline(baseline: str | jax.Array | float, samples: int) -> None:
    """Refuse baselines that don't exist or need more samples."""
    if not isinstance(baseline, str):
        return
    if baseline not in _BASELINES:
        raise ValueError(f"baseline must be an array or one of {', '.join(_BASELINES)}, got {baseline!r}.")
    if baseline != "none" and samples < 2:
        raise ValueError(f'baseline "{baseline}" needs at least 2 samples, got {samples}.')
