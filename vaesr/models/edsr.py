"""EDSR: Enhanced Deep Residual Networks for Single Image Super-Resolution (Lim et al., CVPRW 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers import (
    Conv,
    ConvForm,
    Precision,
    Trunk,
    Upsampler,
    add_mean,
    check_rgb,
    subtract_mean,
    upsampler_factors,
)
from vaesr.models import PlainRestorer


class EDSR(PlainRestorer, nn.Module):
    """Residual blocks without batch norm at the low resolution, then a sub-pixel upsampler.

    The parameters are named after the layers: `head`, `trunk/body_0/conv_0`, ..., `trunk/body_out`,
    `upsampler/conv_0`, `tail`.

    Attributes:
        scale: upscaling factor: 2, 3, 4 or a higher power of two.
        channels: width of the residual blocks; 64 in the baseline, 256 in the paper's network.
        blocks: residual blocks; 16 in the baseline, 32 in the paper's network.
        residual_scale: factor on each residual branch; 0.1 steadies the wide network.
        dtype: compute type; parameters and output are float32.
        remat: recompute each block in the backward pass: less memory, a third more work.
        scan: loop over the blocks, whose parameters are stacked, in place of unrolling them: smaller program.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 2
    channels: int = 64
    blocks: int = 16
    residual_scale: float = 1.0
    dtype: Any = jnp.float32
    remat: bool = False
    scan: bool = False
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        Head, two convolutions a block, the trunk's last one and the upsampler's first reach one pixel
        each at the low resolution; all that follows at higher ones reaches one more.
        """
        return 2 * self.blocks + 4

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
        upsampler_factors(self.scale)
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        x = Conv(self.channels, name="head", **conv)(subtract_mean(x_lr))
        trunk = {"remat": self.remat, "scan": self.scan, **conv}
        x = Trunk(self.channels, self.blocks, self.residual_scale, name="trunk", **trunk)(x)
        x = Upsampler(self.scale, self.channels, name="upsampler", **conv)(x)
        return add_mean(Conv(3, name="tail", **conv)(x))


# Published parameter counts: 1,369,859 / 1,554,499 / 1,517,571 and 40,729,603 / 43,680,003 / 43,089,923.
PRESETS: dict[str, EDSR] = {
    "baseline_x2": EDSR(scale=2),
    "baseline_x3": EDSR(scale=3),
    "baseline_x4": EDSR(scale=4),
    "paper_x2": EDSR(scale=2, channels=256, blocks=32, residual_scale=0.1),
    "paper_x3": EDSR(scale=3, channels=256, blocks=32, residual_scale=0.1),
    "paper_x4": EDSR(scale=4, channels=256, blocks=32, residual_scale=0.1),
}
