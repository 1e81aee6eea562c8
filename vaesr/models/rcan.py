"""RCAN: very deep residual channel attention networks (Zhang et al., ECCV 2018)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers import (
    Conv,
    ConvForm,
    Precision,
    Upsampler,
    add_mean,
    check_rgb,
    global_mean,
    subtract_mean,
    upsampler_factors,
)
from vaesr.models import PlainRestorer


class RCAN(PlainRestorer, nn.Module):
    """Groups of residual blocks whose channels are weighted by their global means.

    The parameters are named after the layers: `head`, `group_0/block_0/conv_0`, ..., `attend_down`,
    `attend_up`, `group_0/out`, ..., `body_out`, `upsampler/conv_0`, `tail`.

    Attributes:
        scale: upscaling factor: 2, 3, 4 or a higher power of two.
        channels: width of the trunk; 64 in the paper.
        groups: residual groups, each with a skip of its own; 10 in the paper.
        blocks: attention blocks of a group; 20 in the paper.
        reduction: channels for one hidden channel of the attention; 16 in the paper.
        dtype: compute type; parameters and output are float32.
        remat: recompute each group in the backward pass: less memory, a third more work.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 2
    channels: int = 64
    groups: int = 10
    blocks: int = 20
    reduction: int = 16
    dtype: Any = jnp.float32
    remat: bool = False
    conv_form: ConvForm = "auto"
    precision: Precision = "default"
    receptive_radius: ClassVar[None] = None  # global means see the whole image: tiles would have seams

    @nn.compact
    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images, the scale has no upsampler, or `reduction` leaves
                no hidden channel.
        """
        check_rgb(x_lr)
        upsampler_factors(self.scale)
        if not 1 <= self.reduction <= self.channels:
            raise ValueError(f"reduction is {self.reduction}; expected 1 to channels, {self.channels}.")
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        group = nn.remat(_Group) if self.remat else _Group
        first = Conv(self.channels, name="head", **conv)(subtract_mean(x_lr))
        x = first
        for i in range(self.groups):
            x = group(self.channels, self.blocks, self.reduction, name=f"group_{i}", **conv)(x)
        x = first + Conv(self.channels, name="body_out", **conv)(x)
        x = Upsampler(self.scale, self.channels, name="upsampler", **conv)(x)
        return add_mean(Conv(3, name="tail", **conv)(x))


class _Group(nn.Module):
    """Blocks, a convolution and a skip (equations 3 and 4)."""

    channels: int
    blocks: int
    reduction: int
    dtype: Any
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        y = x
        for i in range(self.blocks):
            y = _Block(self.channels, self.reduction, name=f"block_{i}", **conv)(y)
        return x + Conv(self.channels, name="out", **conv)(y)


class _Block(nn.Module):
    """conv, ReLU, conv, channel attention, plus the input (equations 9 to 11)."""

    channels: int
    reduction: int
    dtype: Any
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = {"dtype": self.dtype, "form": self.form, "precision": self.precision}
        y = nn.relu(Conv(self.channels, name="conv_0", **conv)(x))
        y = Conv(self.channels, name="conv_1", **conv)(y)
        z = Conv(self.channels // self.reduction, 1, name="attend_down", **conv)(global_mean(y))
        z = Conv(self.channels, 1, name="attend_up", **conv)(nn.relu(z))
        return x + y * nn.sigmoid(z)


# Published parameter counts: 15,444,643, 15,629,283 and 15,592,355.
PRESETS: dict[str, RCAN] = {f"paper_x{scale}": RCAN(scale=scale) for scale in (2, 3, 4)}
