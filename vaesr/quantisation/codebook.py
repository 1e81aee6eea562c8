"""The codebook that follows moving averages: update, first codes by k-means, revival of dead codes, usage."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.quantisation.assign import code_statistics, nearest_codes


class CodebookState(NamedTuple):
    """A codebook and the moving averages behind it; all float32.

    Attributes:
        codes: `[K, D]`.
        counts: `[K]`, the decayed sum of each code's count per batch.
        sums: `[K, D]`, the decayed sum of the vectors that chose it.
        weight: scalar, the decayed sum of ones that both are divided by; 0 before the first update.
    """

    codes: jax.Array
    counts: jax.Array
    sums: jax.Array
    weight: jax.Array

    @classmethod
    def create(cls, codes: jax.Array) -> "CodebookState":
        """Start from given codes `[K, D]`, with nothing averaged yet."""
        codes = jnp.asarray(codes, jnp.float32)
        zeros = jnp.zeros(codes.shape, jnp.float32)
        return cls(codes, zeros[:, 0], zeros, jnp.zeros((), jnp.float32))


def ema_update(
    state: CodebookState, counts: jax.Array, sums: jax.Array, *, decay: float = 0.99, epsilon: float = 1e-5
) -> CodebookState:
    """Move the codes towards the mean of the vectors that chose them.

    The averages are free of the bias towards their start (zero-debiased), and the counts are smoothed
    (Laplace), so that a code that nobody chose is not divided by zero.

    Args:
        state: the codebook.
        counts: `[K]` of this batch, over all devices.
        sums: `[K, D]` of this batch, over all devices.
        decay: weight of the past, in [0, 1); 0 is one step of Lloyd's algorithm for the codes in use.
        epsilon: added to every average count, in vectors, above 0.

    Returns:
        The new state.

    Raises:
        ValueError: if a knob is out of range or the shapes don't fit.

    Source: van den Oord et al. 2017, appendix A.1; zero-debiasing and smoothing as in the authors' code.
    """
    if not 0 <= decay < 1 or not epsilon > 0:
        raise ValueError(f"decay must lie in [0, 1) and epsilon be above 0, got {decay} and {epsilon}.")
    if counts.shape != state.counts.shape or sums.shape != state.sums.shape:
        raise ValueError(
            f"counts and sums must be {state.counts.shape} and {state.sums.shape}, "
            f"got {counts.shape} and {sums.shape}."
        )
    new_counts = decay * state.counts + (1 - decay) * counts
    new_sums = decay * state.sums + (1 - decay) * sums
    weight = decay * state.weight + (1 - decay)
    averaged = new_counts / weight
    total, number = averaged.sum(), averaged.shape[0]
    smoothed = (averaged + epsilon) / (total + number * epsilon) * total
    # Never chosen yet: the averages say nothing of such a code, and it stays where it started.
    codes = jnp.where(averaged[:, None] > 0, (new_sums / weight) / smoothed[:, None], state.codes)
    return CodebookState(codes, new_counts, new_sums, weight)


def kmeans(
    z: jax.Array, count: int, key: jax.Array, *, iterations: int = 10, axis_name: str | None = None
) -> jax.Array:
    """Find codes by Lloyd's algorithm, from vectors of the data.

    Args:
        z: vectors `[N, D]`, N at least 1; fewer than `count` are repeated with a little noise.
        count: K, the number of codes, at least 1.
        key: one random key.
        iterations: at least 0; 0 gives random vectors of the data.
        axis_name: of a mapped axis (`pmap`) to take the vectors of all devices from.

    Returns:
        Codes `[K, D]`, float32. A code that loses all its vectors becomes a random vector again.

    Raises:
        ValueError: if a number is out of range.

    Source: Lloyd 1982; first codes as in Zeghidour et al. 2021 (SoundStream), section III-C.
    """
    if count < 1 or iterations < 0 or z.ndim != 2:
        raise ValueError(
            f"z must be [N, D], count at least 1 and iterations at least 0, got {z.shape}, {count} and "
            f"{iterations}."
        )
    z = gather_vectors(lax.stop_gradient(z.astype(jnp.float32)), axis_name)
    keys = jax.random.split(key, iterations + 1)
    codes = random_vectors(z, count, keys[0])
    if z.shape[0] < count:  # else the copies of a vector would never part
        spread = 1e-3 * (z.std() + 1e-6)
        codes += spread * jax.random.normal(jax.random.fold_in(key, 1), codes.shape)

    def step(codes: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        counts, sums = code_statistics(z, nearest_codes(z, codes), count)
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0, means, random_vectors(z, count, key)), None

    return lax.scan(step, codes, keys[1:])[0]


def revive_codes(
    state: CodebookState,
    z: jax.Array,
    key: jax.Array,
    *,
    threshold: float,
    axis_name: str | None = None,
) -> tuple[CodebookState, jax.Array]:
    """Replace codes that hardly any vector chooses by vectors of the batch.

    Args:
        state: the codebook, after `ema_update`.
        z: the batch's vectors `[N, D]`.
        key: one random key, the same on all devices.
        threshold: a code is dead if its average count per batch is below this; above 0.
        axis_name: of a mapped axis (`pmap`) to take the vectors of all devices from.

    Returns:
        The state, and which codes were replaced, bool `[K]`. A new code starts with an average count of
        `threshold`, so that it has time to be chosen before it may die again, and moves like any other.

    Raises:
        ValueError: if `threshold` is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0, got {threshold}.")
    dead = state.counts < threshold * state.weight
    vectors = gather_vectors(lax.stop_gradient(z.astype(jnp.float32)), axis_name)
    fresh = random_vectors(vectors, state.codes.shape[0], key)
    count = threshold * state.weight
    revived = state._replace(
        codes=jnp.where(dead[:, None], fresh, state.codes),
        counts=jnp.where(dead, count, state.counts),
        sums=jnp.where(dead[:, None], fresh * count, state.sums),
    )
    return revived, dead


def gather_vectors(z: jax.Array, axis_name: str | None) -> jax.Array:
    """All devices' vectors.

    Args:
        z: `[N, D]` of this device.
        axis_name: of the mapped axis; None where one program sees the whole batch.

    Returns:
        `[devices * N, D]`, the same on every device.
    """
    return z if axis_name is None else lax.all_gather(z, axis_name, tiled=True)


def random_vectors(z: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Choose vectors of the data, different ones where there are enough.

    Args:
        z: `[N, D]`.
        count: how many.
        key: one random key.

    Returns:
        `[count, D]`.
    """
    number = z.shape[0]
    if number >= count:
        return z[jax.random.choice(key, number, (count,), replace=False)]
    return z[jax.random.randint(key, (count,), 0, number)]


def perplexity(counts: jax.Array) -> jax.Array:
    """Compute the effective number of codes: the exponential of the entropy of their use.

    Args:
        counts: `[K]`, at least 0, not all 0; of a batch, or better of an epoch: a batch understates it.

    Returns:
        Scalar in [1, K], float32; NaN if nothing was counted.
    """
    share = jnp.asarray(counts, jnp.float32)
    share = share / share.sum()
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum())


def usage(counts: jax.Array) -> jax.Array:
    """Compute the share of codes that occur.

    Args:
        counts: `[K]`, at least 0.

    Returns:
        Scalar in [0, 1], float32.
    """
    return (jnp.asarray(counts) > 0).astype(jnp.float32).mean()
