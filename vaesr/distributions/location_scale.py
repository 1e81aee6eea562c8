"""What distributions with a mean and a scale share: casting, checks and sampling by reparameterisation."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from vaesr.distributions.casting import at_least_float32


class LocationScale:
    """Samples `mean + temperature * scale * noise`, whose gradients flow to both parameters."""

    reparameterised: ClassVar[bool] = True
    mean: jax.Array

    def _mean_and_log_scale(self) -> tuple[jax.Array, jax.Array]:
        """Both parameters of what is sampled: float32, of one shape."""
        raise NotImplementedError

    @staticmethod
    def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Standard noise of one key, float32."""
        raise NotImplementedError

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Standard noise of one key per example, each of `shape`, float32."""
        raise NotImplementedError

    def sample(self, key: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw one value per element from one key; gradients flow to both parameters.

        Args:
            key: one random key. The draw depends on the whole shape: use `sample_examples` for a batch
                that may be split over devices.
            temperature: multiplies the scale; at least 0.

        Returns:
            `mean + temperature * scale * noise`, the shape of `mean`, float32.

        Source: Kingma and Welling 2014, section 2.4 (reparameterisation).
        """
        mean, log_scale = self._mean_and_log_scale()
        return mean + temperature * jnp.exp(log_scale) * self._noise(key, mean.shape)

    def sample_examples(self, keys: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw one value per element, each example from its own key; gradients flow to both parameters.

        Args:
            keys: random keys `[B]`, from `example_keys`; `mean` is `[B, ...]`.
            temperature: multiplies the scale; at least 0.

        Returns:
            `mean + temperature * scale * noise`, the shape of `mean`, float32.

        Raises:
            ValueError: if there is not one key per example.

        Source: Kingma and Welling 2014, section 2.4 (reparameterisation).
        """
        mean, log_scale = self._mean_and_log_scale()
        check_keys(keys, mean)
        return mean + temperature * jnp.exp(log_scale) * self._example_noise(keys, mean.shape[1:])


def of_one_shape(mean: jax.Array, spread: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Cast a mean (any shape) and a scalar or array of its shape to at least float32 and to one shape.

    A ValueError, which calls the spread `name`, if the shapes don't fit.
    """
    mean, spread = at_least_float32(mean), at_least_float32(spread)
    if spread.shape not in ((), mean.shape):
        raise ValueError(
            f"{name} must be a scalar or have the shape of mean, got {spread.shape} for mean {mean.shape}."
        )
    return mean, jnp.broadcast_to(spread, mean.shape)


def check_value(value: jax.Array, mean: jax.Array) -> None:
    """Refuse a value that has another shape than the mean, with a ValueError."""
    if jnp.shape(value) != mean.shape:
        raise ValueError(f"value must have the shape of mean {mean.shape}, got {jnp.shape(value)}.")


def check_keys(keys: jax.Array, mean: jax.Array) -> None:
    """Refuse keys that are not one per example of `mean` `[B, ...]`, with a ValueError."""
    if mean.ndim < 1 or mean.shape[0] != keys.shape[0]:
        raise ValueError(f"keys {keys.shape} must hold one key per example of mean {mean.shape}.")
