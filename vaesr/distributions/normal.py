"""The diagonal normal distribution, parameterised by mean and log-variance."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_normal

_LOG_TWO_PI = math.log(2.0 * math.pi)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal:
    """Independent normal distributions, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape.
        log_var: natural logarithms of the variances, a scalar or the shape of `mean`.
    """

    mean: jax.Array
    log_var: jax.Array
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
        mean, log_var = _float32_pair(self.mean, self.log_var)
        if jnp.shape(value) != mean.shape:
            raise ValueError(f"value must have the shape of mean {mean.shape}, got {jnp.shape(value)}.")
        error = jnp.asarray(value, jnp.float32) - mean
        # The exponential multiplies the error once and is squared with it: exp(-log_var) alone
        # overflows twice as early.
        return -0.5 * (_LOG_TWO_PI + log_var + jnp.square(error * jnp.exp(-0.5 * log_var)))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one value per element from one key; gradients flow to both parameters.

        Args:
            key: one random key. The draw depends on the whole shape: use `sample_examples` for a batch
                that may be split over devices.

        Returns:
            `mean + exp(log_var / 2) * noise`, the shape of `mean`, float32.

        Source:
            Kingma and Welling 2014, section 2.4 (reparameterisation).
        """
        mean, log_var = _float32_pair(self.mean, self.log_var)
        return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, jnp.float32)

    def sample_examples(self, keys: jax.Array) -> jax.Array:
        """Draw one value per element, each example from its own key; gradients flow to both parameters.

        Args:
            keys: random keys `[B]`, from `example_keys`; `mean` is `[B, ...]`.

        Returns:
            `mean + exp(log_var / 2) * noise`, the shape of `mean`, float32.

        Raises:
            ValueError: if there is not one key per example.

        Source:
            Kingma and Welling 2014, section 2.4 (reparameterisation).
        """
        mean, log_var = _float32_pair(self.mean, self.log_var)
        if mean.ndim < 1 or mean.shape[0] != keys.shape[0]:
            raise ValueError(f"keys {keys.shape} must hold one key per example of mean {mean.shape}.")
        return mean + jnp.exp(0.5 * log_var) * example_normal(keys, mean.shape[1:])


def kl_standard_normal(q: Normal) -> jax.Array:
    """Compute KL(q || N(0, 1)) of every element in closed form.

    Args:
        q: normal distributions of any shape.

    Returns:
        Nats, at least 0, the shape of `q.mean`, float32; not summed.

    Raises:
        ValueError: if mean and log-variance don't fit together.

    Source:
        Kingma and Welling 2014, appendix B.
    """
    mean_q, log_var_q = _float32_pair(q.mean, q.log_var)
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

    Source:
        Kullback-Leibler divergence of two univariate normals, e.g. Bishop 2006, exercise 1.30.
    """
    mean_q, log_var_q = _float32_pair(q.mean, q.log_var)
    mean_p, log_var_p = _float32_pair(p.mean, p.log_var)
    if mean_q.shape != mean_p.shape:
        raise ValueError(f"q and p must have the same shape, got {mean_q.shape} and {mean_p.shape}.")
    log_ratio = log_var_q - log_var_p
    distance = (mean_q - mean_p) * jnp.exp(-0.5 * log_var_p)
    return 0.5 * (jnp.square(distance) + jnp.expm1(log_ratio) - log_ratio)


def _float32_pair(mean: jax.Array, log_var: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cast both to float32 and give `log_var` the shape of `mean`."""
    mean, log_var = jnp.asarray(mean, jnp.float32), jnp.asarray(log_var, jnp.float32)
    if log_var.shape not in ((), mean.shape):
        raise ValueError(
            f"log_var must be a scalar or have the shape of mean, got {log_var.shape} for mean {mean.shape}."
        )
    return mean, jnp.broadcast_to(log_var, mean.shape)
