"""Batch normalisation and Swish as one operation, of which the backward pass needs the input alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from vaesr.distributions.casting import at_least_float32

_EPSILON = 1e-5
_Kept = tuple[jax.Array, ...]


class BatchNormSwish(nn.Module):
    """x * sigmoid(x) of a batch normalisation with PyTorch's settings.

    In training the batch is normalised by its biased variance, and the running one moves towards the unbiased
    one, as in PyTorch (Flax's own keeps the biased). The backward pass computes the normalised and the
    activated maps anew from the input. Statistics are float32 whatever the compute type; under `jit` they are
    those of the global batch. They have the name "statistics" for the policies of `jax.checkpoint`.

    Attributes:
        swish: whether there is an activation.
        momentum: of the running averages: what a step adds of its own.
        dtype: of the output.
        axis_name: of the devices under `pmap`, for statistics over all of them.
        repeats: how often each value stands in the map that the statistics are of. Only the factor
            n / (n - 1) of the running variance depends on it.

    Source: Vahdat and Kautz 2020, section 3.3 (one stored map in place of three).
    """

    swish: bool = True
    momentum: float = 0.05
    dtype: Any = jnp.float32
    axis_name: str | None = None
    repeats: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, ..., C]` to the same shape in `dtype`; `train` takes the batch's own statistics."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        flat = x.astype(self.dtype).reshape(-1, channels)
        if not train:
            y = _activated(flat, scale, bias, running_mean.value, running_var.value, self.swish)
            return y.reshape(x.shape)
        axis_name = None if self.is_initializing() else self.axis_name
        mean, var = (checkpoint_name(part, "statistics") for part in _moments(flat, axis_name))
        # The derivatives by the statistics are part of the operation's own.
        mean, var = jax.lax.stop_gradient((mean, var))
        y = _normalised(flat, scale, bias, mean, var, self.swish, axis_name)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = self.repeats * _count(flat, axis_name)
            for running, new in ((running_mean, mean), (running_var, var * (count / max(count - 1, 1)))):
                running.value = (1 - self.momentum) * running.value + self.momentum * new
        return y.reshape(x.shape)


def _count(flat: jax.Array, axis_name: str | None) -> int:
    return flat.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _mean(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The mean `[C]` of `[n, C]` over all devices, at least float32."""
    mean = at_least_float32(values).mean(axis=0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _moments(flat: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    mean = _mean(flat, axis_name)
    # Not the difference of two means, which loses digits where a channel's mean is large.
    return mean, _mean(jnp.square(flat - mean[None]), axis_name)


def _affine(
    flat: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What is centred, and normalised with scale and bias; at least float32."""
    centred = flat - mean[None]
    return centred, centred * (scale * jax.lax.rsqrt(var + _EPSILON))[None] + bias[None]


def _activated(
    flat: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, swish: bool
) -> jax.Array:
    _, h = _affine(flat, scale, bias, mean, var)
    return (h * jax.nn.sigmoid(h) if swish else h).astype(flat.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _normalised(
    flat: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    swish: bool,
    axis_name: str | None,
) -> jax.Array:
    """`[n, C]` normalised with its own statistics `[C]`; the gradient goes through them too."""
    return _activated(flat, scale, bias, mean, var, swish)


def _forward(*args: Any) -> tuple[jax.Array, _Kept]:
    flat, scale, bias, mean, var, swish, _ = args
    return _activated(flat, scale, bias, mean, var, swish), (flat, scale, bias, mean, var)


def _backward(swish: bool, axis_name: str | None, kept: _Kept, g: jax.Array) -> tuple[jax.Array, ...]:
    flat, scale, bias, mean, var = kept
    centred, h = _affine(flat, scale, bias, mean, var)
    g = g.astype(centred.dtype)
    if swish:
        sigmoid = jax.nn.sigmoid(h)
        g = g * (sigmoid * (1 + h * (1 - sigmoid)))
    # Ioffe and Szegedy 2015, section 3: what a change of the mean and of the variance gives back is the part
    # of g that is constant, and that is along the centred map. That map exists, for the variance; with the
    # normalised one in its place there would be one more to write.
    inverse = jax.lax.rsqrt(var + _EPSILON)
    dscale, dbias = inverse * (g * centred).sum(axis=0), g.sum(axis=0)
    constant, along = dbias / flat.shape[0], inverse * dscale / flat.shape[0]
    if axis_name is not None:
        constant, along = jax.lax.pmean((constant, along), axis_name)
    dx = (scale * inverse)[None] * (g - constant[None] - centred * along[None])
    slopes = dscale.astype(scale.dtype), dbias.astype(bias.dtype)
    return dx.astype(flat.dtype), *slopes, jnp.zeros_like(mean), jnp.zeros_like(var)


_normalised.defvjp(_forward, _backward)
