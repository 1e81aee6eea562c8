"""SRVGGNetCompact, the small network of Real-ESRGAN (Wang et al., 2021) for videos and general images."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import pixel_shuffle, upsample_nearest
from vaesr.layers import Conv, ConvForm, Precision, PReLU, check_rgb
from vaesr.models import PlainRestorer


class SRVGGNetCompact(PlainRestorer, nn.Module):
    """A plain stack of convolutions at the low resolution, shuffled up and added to the enlarged input.

    Attributes:
        scale: upscaling factor, from 1; 4 in the published weights.
        channels: width of the stack; 64 in the published weights.
        convs: convolutions between the first and the last; 32 or 16 in the published weights.
        dtype: compute type; parameters and output are float32.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.

    Source: Real-ESRGAN, `SRVGGNetCompact`.
    """

    scale: int = 4
    channels: int = 64
    convs: int = 32
    dtype: Any = jnp.float32
    conv_form: ConvForm = "auto"
    precision: Precision = "default"
    wide_at_output: ClassVar[bool] = False

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
        check_rgb(x_lr)
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
