"""The logistic distribution, parameterised by mean and log-scale."""

import dataclasses

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_uniform
from vaesr.distributions.location_scale import LocationScale, check_value, of_one_shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logistic(LocationScale):
    """Independent logistic distributions, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape.
        log_scale: natural logarithms of the scales, a scalar or the shape of `mean`. The standard deviation
            is π/√3 times the scale.
    """

    mean: jax.Array
    log_scale: jax.Array

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Give the log-density of every element.

        Args:
            value: same shape as `mean`.

        Returns:
            Nats, the shape of `mean`, float32; not summed.

        Raises:
            ValueError: if the shapes differ.
        """
        mean, log_scale = self._mean_and_log_scale()
        check_value(value, mean)
        distance = (jnp.asarray(value, jnp.float32) - mean) * jnp.exp(-log_scale)
        return -log_scale - softplus(-distance) - softplus(distance)

    def _mean_and_log_scale(self) -> tuple[jax.Array, jax.Array]:
        return of_one_shape(self.mean, self.log_scale, "log_scale")

    @staticmethod
    def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return logistic_noise(jax.random.uniform(key, shape, jnp.float32))

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return logistic_noise(example_uniform(keys, shape))


def logistic_noise(uniform: jax.Array) -> jax.Array:
    """Turn noise uniform in [0, 1), float32, into standard logistic noise within ±17.

    By the inverse of its distribution function.
    """
    # JAX's uniform noise has 23 bits: 0 happens, and stands for the lowest 2^-23.
    uniform = jnp.clip(uniform, 2.0**-24, 1.0 - 2.0**-24)
    return jnp.log(uniform) - jnp.log1p(-uniform)


def softplus(x: jax.Array) -> jax.Array:
    """Compute `log(1 + exp(x))`, a third of the time of `jax.nn.softplus` on a CPU."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))
