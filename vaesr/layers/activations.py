"""Activations by name, as models' fields give them, and the one with a parameter."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = Literal["tanh", "relu", "silu", "gelu"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


class PReLU(nn.Module):
    """x where it is positive, else x times a slope that is learned.

    Attributes:
        per_channel: one slope a channel in place of one in all.

    Source: He et al. 2015, "Delving deep into rectifiers", equation 1; 0.25 at first.
    """

    per_channel: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[..., C]` to the same shape and type."""
        count = x.shape[-1] if self.per_channel else 1
        slope = self.param("slope", nn.initializers.constant(0.25), (count,))
        slope = jnp.broadcast_to(slope, x.shape[-1:]).reshape((1,) * (x.ndim - 1) + (-1,))
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype))
