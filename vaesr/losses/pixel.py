"""Per-example losses between images."""

import jax
import jax.numpy as jnp


def l1_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute difference over pixels and channels.

    Args:
        prediction: `[B, ...]`, any range.
        target: same shape and range.

    Returns:
        float32 `[B]`, in the unit of the inputs.

    Raises:
        ValueError: if the shapes differ or there is nothing to average.

    Source: Lim et al. 2017 (EDSR), section 4.2.
    """
    return _mean(jnp.abs(_difference(prediction, target)))


def mse_loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared difference over pixels and channels.

    Args:
        prediction: `[B, ...]`, any range.
        target: same shape and range.

    Returns:
        float32 `[B]`, in the squared unit of the inputs.

    Raises:
        ValueError: if the shapes differ or there is nothing to average.
    """
    return _mean(jnp.square(_difference(prediction, target)))


def charbonnier_loss(prediction: jax.Array, target: jax.Array, *, epsilon: float = 1e-3) -> jax.Array:
    """Mean of √(d² + ε²) over pixels and channels, a smooth L1.

    Args:
        prediction: `[B, ...]`, any range.
        target: same shape and range.
        epsilon: where the loss turns from quadratic to linear, in the unit of the inputs; above 0.

    Returns:
        float32 `[B]`, in the unit of the inputs; `epsilon` where the images are equal.

    Raises:
        ValueError: if the shapes differ, there is nothing to average, or `epsilon` is not positive.

    Source: Lai et al. 2017 (LapSRN), equation 3.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}; expected a positive number, or the gradient at 0 is NaN.")
    return _mean(jnp.sqrt(jnp.square(_difference(prediction, target)) + epsilon**2))


def _difference(prediction: jax.Array, target: jax.Array) -> jax.Array:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape} and target {target.shape}; expected the same."
        )
    if prediction.ndim < 2:
        raise ValueError(
            f"prediction has shape {prediction.shape}; expected a batch [B, ...] of at least two axes."
        )
    return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _mean(per_pixel: jax.Array) -> jax.Array:
    return per_pixel.mean(axis=tuple(range(1, per_pixel.ndim)))
