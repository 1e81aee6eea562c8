"""How much of a latent space a model uses."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def active_units(mean_q: ArrayLike, *, threshold: float = 0.01) -> jax.Array:
    """Counts the latents that depend on the data: Var_x(E_q[z | x]) above a threshold.

    Args:
        mean_q: posterior means `[N, ...]` of N examples, usually a whole evaluation split.
        threshold: variance above which a latent counts, in units of the prior's variance; at least 0.

    Returns:
        The number of active latents, int32 scalar.

    Raises:
        ValueError: if there are not at least two examples of at least one latent, or the threshold is
            negative.

    Source: Burda, Grosse and Salakhutdinov 2016, section 5.2.
    """
    mean_q = jnp.asarray(mean_q, jnp.float32)
    if mean_q.ndim < 2 or mean_q.shape[0] < 2:
        raise ValueError(f"mean_q must be [N, ...] of at least two examples, got shape {mean_q.shape}.")
    if threshold < 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}.")
    return (mean_q.var(axis=0) > threshold).sum(dtype=jnp.int32)
