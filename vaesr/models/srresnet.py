"""SRResNet, SRGAN's generator (Ledig et al., CVPR 2017), and BasicSR's MSRResNet."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import imresize, pixel_shuffle
from vaesr.layers import (
    BatchNorm,
    Conv,
    ConvForm,
    Precision,
    PReLU,
    ResBlock,
    check_rgb,
    upsampler_factors,
)
from vaesr.models import PlainRestorer


class SRResNet(PlainRestorer, nn.Module):
    """Residual blocks with batch norm and PReLU, then a sub-pixel upsampler: the generator of SRGAN.

    Batch statistics are in the collection "batch_stats": call with `train=True` and `mutable` to use and
    update them, else the running averages are used.

    Attributes:
        scale: upscaling factor: 2, 3, 4 or a higher power of two; 4 in the paper.
        channels: width throughout; 64 in the paper.
        blocks: residual blocks; 16 in the paper.
        dtype: compute type; parameters and output are float32.
        axis_name: of the devices under `pmap`, for statistics over all of them.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 16
    dtype: Any = jnp.float32
    axis_name: str | None = None
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        4 of the first convolution, 2 a block, one of the last in the trunk and one of the first in the
        upsampler; all that follows reaches less than two (3 at scale 2) more.
        """
        after, side = 0.0, 1
        for factor in upsampler_factors(self.scale)[1:]:
            side *= factor
            after += 1 / side
        after += 4 / self.scale
        return 2 * self.blocks + 6 + int(-(-after // 1))

    @nn.compact
    def __call__(self, x_lr: jax.Array, train: bool = False) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].
            train: normalise by the batch's own statistics.

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped; the network itself works in
            [-1, 1].

        Raises:
            ValueError: if `x_lr` is no batch of RGB images or the scale has no upsampler.
        """
        check_rgb(x_lr)
        factors = upsampler_factors(self.scale)
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        # A bias before batch norm does nothing, but the published count has it.
        norm = {"dtype": self.dtype, "axis_name": self.axis_name}
        first = PReLU(name="head_prelu")(Conv(self.channels, 9, name="head", **conv)(x_lr))
        x = first
        for i in range(self.blocks):
            y = Conv(self.channels, name=f"body_{i}_conv_0", **conv)(x)
            y = PReLU(name=f"body_{i}_prelu")(BatchNorm(name=f"body_{i}_norm_0", **norm)(y, train))
            y = Conv(self.channels, name=f"body_{i}_conv_1", **conv)(y)
            x = x + BatchNorm(name=f"body_{i}_norm_1", **norm)(y, train)
        x = Conv(self.channels, name="body_out", **conv)(x)
        x = first + BatchNorm(name="body_out_norm", **norm)(x, train)
        for i, factor in enumerate(factors):
            x = Conv(self.channels * factor**2, name=f"up_{i}", **conv)(x)
            x = PReLU(name=f"up_{i}_prelu")(pixel_shuffle(x, factor))
        x = Conv(3, 9, name="tail", **conv)(x)
        return (x.astype(jnp.float32) + 1) / 2


class MSRResNet(PlainRestorer, nn.Module):
    """BasicSR's SRResNet: no batch norm, 3x3 throughout, leaky ReLU, bilinear upscaling as a skip.

    Attributes:
        scale: upscaling factor: 2, 3, 4 or a higher power of two.
        channels: width throughout.
        blocks: residual blocks.
        dtype: compute type; parameters and output are float32.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.

    Source: BasicSR, `MSRResNet`.
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 16
    dtype: Any = jnp.float32
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        One of the first convolution, 2 a block, one of the upsampler's first; two at the end reach 2 / scale
        and the second of the upsampler half a pixel.
        """
        return 2 * self.blocks + 3

    @nn.compact
    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images or the scale has no upsampler.
        """
        check_rgb(x_lr)
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        x = _leaky(Conv(self.channels, name="conv_first", **conv)(x_lr))
        for i in range(self.blocks):
            x = ResBlock(self.channels, name=f"body_{i}", **conv)(x)
        for i, factor in enumerate(upsampler_factors(self.scale)):
            x = Conv(self.channels * factor**2, name=f"upconv_{i}", **conv)(x)
            x = _leaky(pixel_shuffle(x, factor))
        x = _leaky(Conv(self.channels, name="conv_hr", **conv)(x))
        x = Conv(3, name="conv_last", **conv)(x)
        return x.astype(jnp.float32) + imresize(x_lr, self.scale, method="bilinear")


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, negative_slope=0.1)


# Parameter counts: 1,549,462 and 1,517,571.
PRESETS: dict[str, SRResNet | MSRResNet] = {
    "paper_x4": SRResNet(),
    "msrresnet_x4": MSRResNet(),
}
