"""Predictions averaged over draws of a network's weights, in bounded memory."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.objectives.bayesian import Forward, Nll
from vaesr.objectives.objective import Batch

_Update = Callable[[Any, Any, jax.Array], Any]


class PredictiveMoments(NamedTuple):
    """Mean and variance of a regression's prediction, each `[B, ...]` float32.

    Attributes:
        mean: the mean over draws of the weights.
        aleatoric: mean variance of the noise, in the squared unit of the targets.
        epistemic: variance over draws of the mean, the same unit; the prediction's variance is the sum.
    """

    mean: jax.Array
    aleatoric: jax.Array
    epistemic: jax.Array


def predictive(
    forward: Forward,
    params: Mapping[str, Any],
    inputs: jax.Array,
    *,
    key: jax.Array,
    samples: int = 100,
    chunk: int = 10,
    position: jax.Array | None = None,
) -> jax.Array:
    """Average a classifier's probabilities over draws of its weights.

    Runs over the draws in chunks with a streaming logsumexp: memory grows with `chunk`, not with `samples`,
    and the result doesn't depend on `chunk`.

    Args:
        forward: `forward(posterior, inputs, keys=[S], position=[B]) -> logits [S, B, K]`.
        params: the posterior (one player's tree).
        inputs: `[B, ...]`.
        key: one random key.
        samples: R, draws of the weights, at least 1 and static.
        chunk: draws at a time, at least 1 and static.
        position: `[B]` int32, each example's index in the whole set, so that its noise doesn't depend on how
            the set is cut into batches; `arange(B)` if absent.

    Returns:
        Log-probabilities `[B, K]`, float32.

    Raises:
        ValueError: if `samples` or `chunk` is below 1, or shapes don't fit.

    Source: Blundell et al. 2015, section 3.1: `P(y | x) = E_q(w)[P(y | x, w)]`.
    """

    def add(total: jax.Array, logits: jax.Array, wanted: jax.Array) -> jax.Array:
        if logits.ndim != 3:
            raise ValueError(f"forward must give logits [S, B, K], got shape {logits.shape}.")
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.where(wanted[:, None, None], log_probs, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(chosen, axis=0))

    def start(logits: jax.Array) -> jax.Array:
        return jnp.full(logits.shape[1:], -jnp.inf)

    total = _over_draws(forward, params, inputs, start, add, key, samples, chunk, position)
    return total - math.log(samples)


def predictive_log_prob(
    forward: Forward,
    nll: Nll,
    params: Mapping[str, Any],
    batch: Batch,
    *,
    key: jax.Array,
    samples: int = 100,
    chunk: int = 10,
    inputs: str = "image",
) -> jax.Array:
    """Measure the data under the prediction averaged over draws of the weights: the test log-likelihood.

    Args:
        forward: `forward(posterior, inputs, keys=[S], position=[B]) -> outputs [S, B, ...]`.
        nll: `nll(outputs, batch) -> [B]` nats, of the outputs of one draw.
        params: the posterior (one player's tree).
        batch: holds `inputs`, what `nll` reads, and perhaps "position".
        key: one random key.
        samples: R, draws of the weights, at least 1 and static.
        chunk: draws at a time, at least 1 and static.
        inputs: the name of the network's input in the batch.

    Returns:
        `[B]` nats, float32: `log(mean over R of p(y | x, w))`.

    Raises:
        ValueError: if `samples` or `chunk` is below 1, or shapes don't fit.
    """

    def add(total: jax.Array, outputs: Any, wanted: jax.Array) -> jax.Array:
        log_probs = -jax.vmap(lambda one: nll(one, batch))(outputs)
        chosen = jnp.where(wanted[:, None], log_probs, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(chosen, axis=0))

    def start(outputs: Any) -> jax.Array:
        return jnp.full(jnp.shape(batch[inputs])[:1], -jnp.inf)

    position = batch.get("position")
    total = _over_draws(forward, params, batch[inputs], start, add, key, samples, chunk, position)
    return total - math.log(samples)


def predictive_moments(
    forward: Forward,
    params: Mapping[str, Any],
    inputs: jax.Array,
    *,
    key: jax.Array,
    samples: int = 100,
    chunk: int = 10,
    position: jax.Array | None = None,
    log_scale: float = 0.0,
) -> PredictiveMoments:
    """Give mean and variance of a regression's prediction over draws of the weights.

    Args:
        forward: `forward(posterior, inputs, keys=[S], position=[B])`, whose outputs are means `[S, B, ...]`
            or `(mean, log_scale)`, the latter `[S]` or of the mean's shape.
        params: the posterior (one player's tree).
        inputs: `[B, ...]`.
        key: one random key.
        samples: R, draws of the weights, at least 1 and static.
        chunk: draws at a time, at least 1 and static.
        position: `[B]` int32, each example's index in the whole set; `arange(B)` if absent.
        log_scale: logarithm of the noise's standard deviation where the outputs don't give it.

    Returns:
        A `PredictiveMoments` of `[B, ...]` arrays.

    Raises:
        ValueError: if `samples` or `chunk` is below 1, or shapes don't fit.

    Source: Kendall and Gal 2017, equation 9 (the law of total variance).
    """

    def split(outputs: Any) -> tuple[jax.Array, jax.Array]:
        mean, noise = outputs if isinstance(outputs, tuple) else (outputs, jnp.float32(log_scale))
        if jnp.ndim(noise) not in (0, mean.ndim):
            noise = noise.reshape(-1, *[1] * (mean.ndim - 1))
        return mean, jnp.broadcast_to(jnp.exp(2.0 * noise), mean.shape)

    def start(outputs: Any) -> tuple[jax.Array, ...]:
        zeros = jnp.zeros(split(outputs)[0].shape[1:])
        return jnp.zeros(()), zeros, zeros, zeros

    def add(carry: tuple[jax.Array, ...], outputs: Any, wanted: jax.Array) -> tuple[jax.Array, ...]:
        count, mean, squares, noise = carry
        values, variances = split(outputs)
        mask = wanted.reshape(-1, *[1] * (values.ndim - 1)).astype(jnp.float32)
        number = wanted.astype(jnp.float32).sum()
        chunk_mean = (mask * values).sum(axis=0) / number
        deviations = (mask * jnp.square(values - chunk_mean[None])).sum(axis=0)
        # Chan et al. 1979: merging two sets' means and squared deviations, which doesn't cancel.
        shift, whole = chunk_mean - mean, count + number
        squares = squares + deviations + jnp.square(shift) * (count * number / whole)
        return whole, mean + shift * (number / whole), squares, noise + (mask * variances).sum(axis=0)

    carry = _over_draws(forward, params, inputs, start, add, key, samples, chunk, position)
    _, mean, squares, noise = carry
    return PredictiveMoments(mean, noise / samples, squares / samples)


def _over_draws(
    forward: Forward,
    params: Mapping[str, Any],
    inputs: jax.Array,
    start: Callable[[Any], Any],
    add: _Update,
    key: jax.Array,
    samples: int,
    chunk: int,
    position: jax.Array | None,
) -> Any:
    """Scan `add` over chunks of draws; `wanted` says which draws of a chunk count."""
    if samples < 1 or chunk < 1:
        raise ValueError(f"samples and chunk must be at least 1, got {samples} and {chunk}.")
    chunk = min(chunk, samples)
    inputs = jnp.asarray(inputs)
    if position is None:
        position = jnp.arange(inputs.shape[0], dtype=jnp.int32)

    def outputs_of(first: jax.Array) -> tuple[Any, jax.Array]:
        indices = first + jnp.arange(chunk)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)
        outputs = forward(params, inputs, keys=keys, position=position)
        draws = jax.tree.leaves(outputs)[0].shape[0]
        if draws != chunk:
            raise ValueError(
                f"forward must give one output per key, got {draws} for {chunk} keys; of an ensemble of M "
                "members, give samples=M and chunk=M."
            )
        # The last chunk may be longer than what is left.
        return outputs, indices < samples

    def body(carry: Any, first: jax.Array) -> tuple[Any, None]:
        return add(carry, *outputs_of(first)), None

    shapes, _ = jax.eval_shape(outputs_of, jax.ShapeDtypeStruct((), jnp.int32))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    carry, _ = jax.lax.scan(body, start(zeros), jnp.arange(0, samples, chunk, dtype=jnp.int32))
    return carry
