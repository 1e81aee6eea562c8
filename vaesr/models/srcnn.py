"""SRCNN: Image super-resolution using deep convolutional networks (Dong et al., TPAMI 2016)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import imresize, rgb_to_ycbcr, ycbcr_to_rgb
from vaesr.layers import Conv, ConvForm, Precision, check_rgb
from vaesr.models import PlainRestorer


class SRCNN(PlainRestorer, nn.Module):
    """Three convolutions that sharpen the luma of a bicubically enlarged image.

    Attributes:
        scale: upscaling factor, from 2; the parameters don't depend on it.
        kernels: sides of the three kernels (patch extraction, mapping, reconstruction), odd; 9 1 5 or 9 5 5
            in the paper.
        widths: outputs of the first two convolutions; 64 32 in the paper.
        dtype: compute type; parameters and output are float32.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    scale: int = 2
    kernels: tuple[int, int, int] = (9, 1, 5)
    widths: tuple[int, int] = (64, 32)
    dtype: Any = jnp.float32
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @property
    def channels(self) -> int:
        """Channels of the widest maps."""
        return max(self.widths)

    @property
    def receptive_radius(self) -> int:
        """How many low-resolution pixels around an input pixel can change what it becomes.

        The convolutions' reach at the high resolution, and two pixels of the bicubic kernel.
        """
        reach = sum(side // 2 for side in self.kernels)
        return -(-reach // self.scale) + 2

    @nn.compact
    def __call__(self, x_lr: jax.Array) -> jax.Array:
        """Upscale a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped: the network's luma (BT.601)
            under bicubic chroma.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images.
        """
        check_rgb(x_lr)
        ycbcr = imresize(rgb_to_ycbcr(x_lr), self.scale)
        # Kaiming or PyTorch's default would not be the paper's: N(0, 0.001) and no bias at first.
        settings = {
            "kernel_init": nn.initializers.normal(1e-3), "bias_init": nn.initializers.zeros,
            "dtype": self.dtype, "form": self.conv_form, "precision": self.precision,
        }  # fmt: skip
        x = ycbcr[..., :1]
        for i, (width, side) in enumerate(zip((*self.widths, 1), self.kernels, strict=True)):
            x = Conv(width, side, name=f"conv_{i}", **settings)(x)
            x = nn.relu(x) if i < 2 else x
        return ycbcr_to_rgb(jnp.concatenate([x.astype(jnp.float32), ycbcr[..., 1:]], axis=-1))


# 8,129, 24,513 and 57,281 parameters.
PRESETS: dict[str, SRCNN] = {
    "9-1-5": SRCNN(),
    "9-3-5": SRCNN(kernels=(9, 3, 5)),
    "9-5-5": SRCNN(kernels=(9, 5, 5)),
}
