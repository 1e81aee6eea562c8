"""The diagonal normal distribution, parameterised by mean and log-variance."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from vaesr.distributions.casting import at_least_float32
from vaesr.distributions.keys import example_normal
from vaesr.distributions.location_scale import LocationScale, check_value, of_one_shape

_LOG_TWO_PI = math.log(2.0 * math.pi)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal(LocationScale):
    """Independent normal distributions, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape.
        log_var: natural logarithms of the variances, a scalar or the shape of `mean`.
    """

    mean: jax.Array
    log_var: jax.Array

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Give the log-density of every element.

        Args:
            value: same shape as `mean`.

        Returns:
            Nats, the shape of `mean`, float32; not summed.

        Raises:
            ValueError: if the shapes differ.
        """
        mean, log_var = of_one_shape(self.mean, self.log_var, "log_var")
        check_value(value, mean)
        error = at_least_float32(value) - mean
        # The exponential multiplies the error once and is squared with it: exp(-log_var) alone
        # overflows twice as early.
        return -0.5 * (_LOG_TWO_PI + log_var + jnp.square(error * jnp.exp(-0.5 * log_var)))

    def _mean_and_log_scale(self) -> tuple[jax.Array, jax.Array]:
        mean, log_var = of_one_shape(self.mean, self.log_var, "log_var")
        return mean, 0.5 * log_var

    @staticmethod
    def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32)

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return example_normal(keys, shape)


def kl_standard_normal(q: Normal) -> jax.Array:
    """Compute KL(q || N(0, 1)) of every element in closed form.

    Args:
        q: normal distributions of any shape.

    Returns:
        Nats, at least 0, the shape of `q.mean`, float32; not summed.

    Raises:
        ValueError: if mean and log-variance don't fit together.

    Source: Kingma and Welling 2014, appendix B.
    """
    mean_q, log_var_q = of_one_shape(q.mean, q.log_var, "log_var")
    # expm1 keeps the digits where the variance is close to 1, and KL(p, p) is exactly 0.
    return 0.5 * (jnp.square(mean_q) + jnp.expm1(log_var_q) - log_var_q)


def kl_normal(q: Normal, p: Normal) -> jax.Array:
    """Compute KL(q || p) of every element in closed form.

    Args:
        q: normal distributions of any shape.
        p: normal distributions of the same shape.

    Returns:
        Nats, at least 0, the shape of `q.mean`, float32; not summed.

    Raises:
        ValueError: if the shapes differ.

    Source: Kullback-Leibler divergence of two univariate normals, e.g. Bishop 2006, exercise 1.30.
    """
    mean_q, log_var_q = of_one_shape(q.mean, q.log_var, "log_var")
    mean_p, log_var_p = of_one_shape(p.mean, p.log_var, "log_var")
    if mean_q.shape != mean_p.shape:
        raise ValueError(f"q and p must have the same shape, got {mean_q.shape} and {mean_p.shape}.")
    log_ratio = log_var_q - log_var_p
    distance = (mean_q - mean_p) * jnp.exp(-0.5 * log_var_p)
    return 0.5 * (jnp.square(distance) + jnp.expm1(log_ratio) - log_ratio)
