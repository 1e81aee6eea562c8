"""Normalisation and pooling over whole images, as PyTorch sets them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.distributions.casting import at_least_float32
from vaesr.forms import by_platform


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's settings: epsilon 1e-5, running averages that keep 0.9.

    Statistics are float32 whatever the compute type. Under `jit` they are those of the global batch.

    Attributes:
        dtype: of the output.
        axis_name: of the devices under `pmap`, for statistics over all of them.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, ..., C]` to the same shape in `dtype`; `train` takes the batch's own statistics."""
        # Making parameters happens outside `pmap`.
        axis_name = None if self.is_initializing() else self.axis_name
        # The fast variance, a difference of means, loses digits where a channel's mean is large.
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype,
            use_fast_variance=False, axis_name=axis_name, name="norm",
        )(x)  # fmt: skip


# Compiled as a function of its own, so that layers of one shape are traced once.
@jax.jit
def global_mean(x: jax.Array) -> jax.Array:
    """The mean of each channel over the whole image.

    Args:
        x: `[B, H, W, C]`, floating point.

    Returns:
        `[B, 1, 1, C]` in the type of `x`, summed in float32.
    """
    batch, height, width, channels = x.shape
    flat = x.reshape(batch, height * width, channels)
    mean = by_platform(flat, cpu=_mean_by_matmul, default=lambda flat: at_least_float32(flat).mean(axis=1))
    return mean.astype(x.dtype).reshape(batch, 1, 1, channels)


def _mean_by_matmul(flat: jax.Array) -> jax.Array:
    """XLA's CPU back end sums over an axis before the last some 10 times slower than it multiplies."""
    batch, pixels, channels = flat.shape
    ones = jnp.full((batch, 1, pixels), 1 / pixels, flat.dtype)
    mean = jax.lax.dot_general(
        ones, flat, (((2,), (1,)), ((0,), (0,))), precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(flat.dtype, jnp.float32),
    )  # fmt: skip
    return mean.reshape(batch, channels)
