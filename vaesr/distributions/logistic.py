"""The logistic distribution, parameterised by mean and log-scale."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_uniform


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logistic:
    """Independent logistic distributions, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape.
        log_scale: natural logarithms of the scales, a scalar or the shape of `mean`. The standard deviation
            is π/√3 times the scale.
    """

    mean: jax.Array
    log_scale: jax.Array
    reparameterised: ClassVar[bool] = True

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Give the log-density of every element.

        Args:
            value: same shape as `mean`.

        Returns:
            Nats, the shape of `mean`, float32; not summed.

        Raises:
            ValueError: if the shapes differ.
        """
        mean, log_scale = mean_and_scale(self.mean, self.log_scale)
        if jnp.shape(value) != mean.shape:
            raise ValueError(f"value must have the shape of mean {mean.shape}, got {jnp.shape(value)}.")
        distance = (jnp.asarray(value, jnp.float32) - mean) * jnp.exp(-log_scale)
        return -log_scale - softplus(-distance) - softplus(distance)

    def sample(self, key: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw one value per element from one key; gradients flow to both parameters.

        Args:
            key: one random key. The draw depends on the whole shape: use `sample_examples` for a batch
                that may be split over devices.
            temperature: multiplies the scale; at least 0.

        Returns:
            `mean + temperature * exp(log_scale) * noise`, the shape of `mean`, float32.
        """
        mean, log_scale = mean_and_scale(self.mean, self.log_scale)
        noise = logistic_noise(jax.random.uniform(key, mean.shape, jnp.float32))
        return mean + temperature * jnp.exp(log_scale) * noise

    def sample_examples(self, keys: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw one value per element, each example from its own key; gradients flow to both parameters.

        Args:
            keys: random keys `[B]`, from `example_keys`; `mean` is `[B, ...]`.
            temperature: multiplies the scale; at least 0.

        Returns:
            `mean + temperature * exp(log_scale) * noise`, the shape of `mean`, float32.

        Raises:
            ValueError: if there is not one key per example.
        """
        mean, log_scale = mean_and_scale(self.mean, self.log_scale)
        check_keys(keys, mean)
        noise = logistic_noise(example_uniform(keys, mean.shape[1:]))
        return mean + temperature * jnp.exp(log_scale) * noise


def logistic_noise(uniform: jax.Array) -> jax.Array:
    """Turn noise uniform in [0, 1) into standard logistic noise by the inverse of its distribution function.

    Args:
        uniform: any shape, float32.

    Returns:
        Same shape, float32, within ±17.
    """
    # JAX's uniform noise has 23 bits: 0 happens, and stands for the lowest 2^-23.
    uniform = jnp.clip(uniform, 2.0**-24, 1.0 - 2.0**-24)
    return jnp.log(uniform) - jnp.log1p(-uniform)


def softplus(x: jax.Array) -> jax.Array:
    """Compute `log(1 + exp(x))`, a third of the time of `jax.nn.softplus` on a CPU.

    Args:
        x: any shape.

    Returns:
        Same shape.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def mean_and_scale(mean: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cast both to float32 and give `log_scale` the shape of `mean`.

    Args:
        mean: any shape.
        log_scale: a scalar or the shape of `mean`.

    Returns:
        Both, of one shape.

    Raises:
        ValueError: if the shapes don't fit.
    """
    mean, log_scale = jnp.asarray(mean, jnp.float32), jnp.asarray(log_scale, jnp.float32)
    if log_scale.shape not in ((), mean.shape):
        raise ValueError(
            "log_scale must be a scalar or have the shape of mean, "
            f"got {log_scale.shape} for mean {mean.shape}."
        )
    return mean, jnp.broadcast_to(log_scale, mean.shape)


def check_keys(keys: jax.Array, mean: jax.Array) -> None:
    """Refuse keys that are not one per example.

    Args:
        keys: random keys `[B]`.
        mean: `[B, ...]`.

    Raises:
        ValueError: if the first axes differ.
    """
    if mean.ndim < 1 or mean.shape[0] != keys.shape[0]:
        raise ValueError(f"keys {keys.shape} must hold one key per example of mean {mean.shape}.")
