"""SRVGGNetCompact, the small network of Real-ESRGAN (Wang et al., 2021) for videos and general images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import pixel_shuffle, upsample_nearest
from vaesr.layers import Conv, PReLU


class SRVGGNetCompact(nn.Module):
    """A plain stack of convolutions at the low resolution, shuffled up and added to the enlarged input.

    Attributes:
        scale: any factor from 1; 4 in the published weights.
        channels: width of the stack.
        convs: convolutions between the first and the last.
        dtype: compute type; parameters and output are float32.
        conv_form: see `vaesr.layers.conv2d`.
        precision: of float32 convolutions on accelerators, see `vaesr.layers.conv2d`.

    Source: Real-ESRGAN, `SRVGGNetCompact`.
    """

    scale: int = 4
    channels: int = 64
    convs: int = 32
    dtype: Any = jnp.float32
    conv_form: str = "auto"
    precision: str = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes."""
        return self.convs + 2

    @nn.compact
    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images.
        """
        if x_lr.ndim != 4 or x_lr.shape[-1] != 3:
            raise ValueError(f"x_lr has shape {x_lr.shape}; expected [B, h, w, 3].")
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        x = x_lr
        for i in range(self.convs + 1):
            x = Conv(self.channels, name=f"conv_{i}", **conv)(x)
            x = PReLU(per_channel=True, name=f"prelu_{i}")(x)
        x = Conv(3 * self.scale**2, name=f"conv_{self.convs + 1}", **conv)(x)
        return pixel_shuffle(x.astype(jnp.float32), self.scale) + upsample_nearest(x_lr, self.scale)


# Parameter counts: 1,213,296 and 621,424.
PRESETS: dict[str, SRVGGNetCompact] = {
    "general_x4v3": SRVGGNetCompact(),
    "animevideov3": SRVGGNetCompact(convs=16),
}
