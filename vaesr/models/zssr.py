"""ZSSR: "Zero-shot" super-resolution using deep internal learning (Shocher, Cohen and Irani, CVPR 2018)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import imresize
from vaesr.layers import Conv, ConvForm, Precision, check_rgb
from vaesr.models import PlainRestorer


class ZSSR(PlainRestorer, nn.Module):
    """A small plain network that is trained on the one image it is for: it adds to bicubic what that lacks.

    Attributes:
        scale: upscaling factor; the parameters don't depend on it.
        channels: of the maps between the convolutions.
        depth: convolutions of 3x3, at least 2.
        dtype: compute type; parameters and output are float32.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`; it is trained in loops.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 2
    channels: int = 64
    depth: int = 8
    dtype: Any = jnp.float32
    conv_form: ConvForm = "loop"
    precision: Precision = "default"

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        The convolutions' reach at the high resolution, and two pixels of the bicubic kernel.
        """
        return -(-self.depth // self.scale) + 2

    def setup(self) -> None:
        inputs = [3] + [self.channels] * (self.depth - 1)
        outputs = [*inputs[1:], 3]
        self.convs = [
            Conv(
                features, use_bias=False, kernel_init=nn.initializers.normal(math.sqrt(0.1 / (9 * taken))),
                dtype=self.dtype, form=self.conv_form, precision=self.precision,
            )
            for taken, features in zip(inputs, outputs, strict=True)
        ]  # fmt: skip

    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale RGB `[B, h, w, 3]` in [0, 1] to float32 `[B, h * scale, w * scale, 3]`, not clipped."""
        check_rgb(x_lr)
        return self.refine(imresize(x_lr, self.scale))

    def refine(self, enlarged: jax.Array) -> jax.Array:
        """Add what an enlarged image `[B, H, W, 3]` lacks: the same shape, float32."""
        x = enlarged
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = nn.relu(x) if i < self.depth - 1 else x
        return enlarged + x.astype(jnp.float32)


# 224,640 parameters.
PRESETS: dict[str, ZSSR] = {"paper": ZSSR()}
