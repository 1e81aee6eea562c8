"""Negative log-likelihood of class labels."""

import jax
import jax.numpy as jnp


def categorical_nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the negative log-likelihood of labels under a softmax (the cross-entropy).

    Args:
        logits: `[B, ..., K]`, unnormalised log-probabilities of K classes.
        labels: `[B, ...]` integers in 0..K-1; the loss of any other label is NaN.

    Returns:
        `[B]` nats, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes don't fit, or the labels are not integers.
    """
    labels = jnp.asarray(labels)
    if jnp.ndim(logits) < 2 or jnp.shape(logits)[:-1] != labels.shape:
        raise ValueError(
            f"logits must be [B, ..., K] and labels [B, ...], got {jnp.shape(logits)} and {labels.shape}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers (class numbers), got {labels.dtype}.")
    labels = labels.astype(jnp.int32)
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    # A negative index would count from the end, and pass for a class.
    index = jnp.where(labels < 0, log_probs.shape[-1], labels)[..., None]
    chosen = jnp.take_along_axis(log_probs, index, axis=-1, mode="fill", fill_value=jnp.nan)
    return -chosen.reshape(labels.shape[0], -1).sum(axis=1)
