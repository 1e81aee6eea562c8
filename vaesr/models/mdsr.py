"""MDSR: one network for x2, x3 and x4 (Lim et al., CVPRW 2017, section 3.3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers import (
    Conv,
    ConvForm,
    Precision,
    ResBlock,
    Trunk,
    Upsampler,
    add_mean,
    check_rgb,
    subtract_mean,
)
from vaesr.models import PlainRestorer


class MDSR(PlainRestorer, nn.Module):
    """EDSR's trunk shared by all scales, between a pre-processing and an upsampler of each scale.

    The parameters are named after the layers: `head`, `pre_process_x2_0`, ..., `trunk`, `upsampler_x2`,
    ..., `tail`. Initialisation makes those of all scales, whichever scale it is called with.

    Attributes:
        scales: upscaling factors that the network holds, of 2, 3, 4 and higher powers of two.
        channels: width of the residual blocks; 64 in the paper.
        blocks: residual blocks that all scales share; 16 in the baseline, 80 in the paper's network.
        residual_scale: factor on each residual branch.
        dtype: compute type; parameters and output are float32.
        remat: recompute each block in the backward pass: less memory, a third more work.
        scan: loop over the blocks, whose parameters are stacked, in place of unrolling them: smaller program.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scales: tuple[int, ...] = (2, 3, 4)
    channels: int = 64
    blocks: int = 80
    residual_scale: float = 1.0
    dtype: Any = jnp.float32
    remat: bool = False
    scan: bool = False
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        As in EDSR (2 a block, and 4), and 8 from the four 5x5 convolutions of the pre-processing.
        """
        return 2 * self.blocks + 12

    @nn.compact
    def __call__(self, x_lr: jax.Array, scale: int = 2) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].
            scale: one of `scales`; a Python int, not an array.

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images or the network lacks the scale.
        """
        check_rgb(x_lr)
        if scale not in self.scales:
            raise ValueError(f"scale is {scale}; this network holds {self.scales}.")
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        pre = {
            s: [
                ResBlock(self.channels, 5, self.residual_scale, name=f"pre_process_x{s}_{i}", **conv)
                for i in range(2)
            ]
            for s in self.scales
        }
        upsamplers = {s: Upsampler(s, self.channels, name=f"upsampler_x{s}", **conv) for s in self.scales}
        x = Conv(self.channels, name="head", **conv)(subtract_mean(x_lr))
        if self.is_initializing():  # Linen makes parameters where a layer is called.
            for s in self.scales:
                upsamplers[s](pre[s][1](pre[s][0](x)))
        x = pre[scale][1](pre[scale][0](x))
        trunk = {"remat": self.remat, "scan": self.scan, **conv}
        x = Trunk(self.channels, self.blocks, self.residual_scale, name="trunk", **trunk)(x)
        return add_mean(Conv(3, name="tail", **conv)(upsamplers[scale](x)))


# Published parameter counts: 3,227,203 (16 blocks) and 7,953,987 (80 blocks).
PRESETS: dict[str, MDSR] = {
    "baseline": MDSR(blocks=16),
    "paper": MDSR(blocks=80),
}
