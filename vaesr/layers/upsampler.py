"""The sub-pixel upsampler: convolutions and pixel shuffles."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import pixel_shuffle
from vaesr.layers.conv import Conv


def check_rgb(x_lr: jax.Array) -> None:
    """Refuse what is no batch of RGB images.

    Args:
        x_lr: should be `[B, h, w, 3]`.

    Raises:
        ValueError: if it is not.
    """
    if x_lr.ndim != 4 or x_lr.shape[-1] != 3:
        raise ValueError(f"x_lr has shape {x_lr.shape}; expected [B, h, w, 3].")


def upsampler_factors(scale: int) -> tuple[int, ...]:
    """Split a scale into the pixel-shuffle factors of the upsampler.

    Args:
        scale: 3, or a power of two from 2.

    Returns:
        (3,), or as many twos as the power.

    Raises:
        ValueError: for every other scale.
    """
    if scale == 3:
        return (3,)
    if scale >= 2 and scale & (scale - 1) == 0:
        return (2,) * (scale.bit_length() - 1)
    raise ValueError(f"scale is {scale}; the upsampler expects 3 or a power of two from 2.")


class Upsampler(nn.Module):
    """For each factor r: a 3x3 convolution to r² times the channels, then pixel shuffle; no activation.

    Attributes:
        scale: 2, 3, 4, 8, ...
        channels: input and output channels.
        dtype: compute type.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
    """

    scale: int
    channels: int
    dtype: Any = jnp.float32
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, channels]` to `[B, H * scale, W * scale, channels]`."""
        conv = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        for i, factor in enumerate(upsampler_factors(self.scale)):
            x = pixel_shuffle(Conv(self.channels * factor**2, name=f"conv_{i}", **conv)(x), factor)
        return x
