"""The one convolution of the super-resolution networks, and its Linen layer."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.winograd import winograd_conv2d

FORMS = ("auto", "direct", "winograd", "loop")


def conv2d(x: jax.Array, kernel: jax.Array, *, form: str = "auto") -> jax.Array:
    """Convolve with stride 1 and zero padding that keeps the size.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[K, K, C, F]` with odd K, same type as `x`.
        form: how it is computed.

    Returns:
        `[B, H, W, F]` in the type of `x`.

    Raises:
        ValueError: if the shapes don't fit or the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected one of {FORMS}.")
    if form == "winograd" and kernel.shape[0] == 3 and kernel.shape[2] >= 32 and kernel.shape[3] >= 32:
        return winograd_conv2d(x, kernel)
    return _direct(x, kernel)


def _direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initialise as PyTorch's convolutions do by default: uniform in ±1/√fan_in.

    Kaiming-uniform with a = √5 has the bound √(6 / ((1 + 5) · fan_in)), which is the bias's bound too.

    Args:
        fan_in: kernel height · width · input channels.

    Returns:
        An initializer `(key, shape, dtype) -> array`.

    Source: PyTorch `nn.Conv2d.reset_parameters`.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A stride-1 convolution with zero padding and PyTorch's default initialisation.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        dtype: compute type; the parameters are float32.
        form: see `conv2d`.
    """

    features: int
    kernel_size: int = 3
    dtype: jnp.dtype = jnp.float32
    form: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]` in `dtype`."""
        channels = x.shape[-1]
        init = torch_uniform(self.kernel_size**2 * channels)
        kernel = self.param("kernel", init, (self.kernel_size, self.kernel_size, channels, self.features))
        bias = self.param("bias", init, (self.features,))
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), form=self.form)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
