"""One random key per example, so that noise does not depend on how a batch is cut up."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, position: jax.Array) -> jax.Array:
    """Derive one key per example from its index in the global batch.

    The keys of an example are the same on 1 or N devices, under `pmap` and with gradient accumulation.
    That holds for threefry keys (JAX's default); `rbg` keys give batch-dependent bits under `vmap`.

    Args:
        key: one random key.
        position: `[B]` integers, each example's index in the global batch.

    Returns:
        Random keys `[B]` (`[B, 2]` if `key` is a raw uint32 key), `fold_in(key, position[b])` each.

    Raises:
        ValueError: if `position` is not a vector or not of an integer type.
    """
    position = jnp.asarray(position)
    if position.ndim != 1 or not jnp.issubdtype(position.dtype, jnp.integer):
        raise ValueError(
            f"position must be a vector [B] of integers (indices in the global batch), "
            f"got shape {position.shape} and dtype {position.dtype}."
        )
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)


def keys_shape(keys: jax.Array) -> tuple[int, ...]:
    """Give `()` for one random key, `(B,)` for keys `[B]`, typed or raw uint32 ones."""
    return keys.shape if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys.shape[:-1]


def example_normal(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Draw standard normal noise for each example from its own key.

    Args:
        keys: random keys `[B]`, from `example_keys`.
        shape: the shape of one example's noise, without the batch axis.

    Returns:
        `[B, *shape]` float32.
    """
    shape = tuple(shape)
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def layer_normal(keys: jax.Array, indices: jax.Array, layer: int, shape: Sequence[int]) -> jax.Array:
    """Draw standard normal noise of one of several layers, for each example from its own key.

    Args:
        keys: random keys `[B]`, from `example_keys`.
        indices: `[S]` int32, the samples' numbers.
        layer: its number; sample s of example b uses `fold_in(fold_in(keys[b], indices[s]), layer)`.
        shape: the shape of one example's noise.

    Returns:
        `[S, B, *shape]` float32.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(lambda index: example_normal(fold(fold(keys, index), layer), shape))(indices)


def example_uniform(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Draw noise uniform in [0, 1) for each example from its own key.

    Args:
        keys: random keys `[B]`, from `example_keys`.
        shape: the shape of one example's noise, without the batch axis.

    Returns:
        `[B, *shape]` float32.
    """
    shape = tuple(shape)
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def example_bernoulli(keys: jax.Array, mean: jax.Array) -> jax.Array:
    """Draw zeros and ones for each example from its own key; no gradient flows.

    Args:
        keys: random keys `[B]`, from `example_keys`.
        mean: `[B, ...]`, the probability of a one, in [0, 1].

    Returns:
        The shape of `mean`, float32.
    """
    return (example_uniform(keys, mean.shape[1:]) < mean).astype(jnp.float32)
