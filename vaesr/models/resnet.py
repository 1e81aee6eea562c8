"""The convolutional body of ResNet (He et al., CVPR 2016) as torchvision has it, the encoder of U-Nets."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers import BatchNorm, Conv, ConvForm, Precision


class ResNetBody(nn.Module):
    """Stem and four stages; what each size of feature map looks like before it shrinks.

    Attributes:
        blocks: residual blocks of each stage: (3, 4, 6, 3) is ResNet34 and ResNet50, (3, 4, 23, 3) ResNet101.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with four times the outputs (from ResNet50 on).
        channels: of the stem; doubled at every stage but the first.
        dtype: compute type; parameters are float32.
        axis_name: of the devices under `pmap`, for statistics over all of them.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = False
    channels: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None
    conv_form: ConvForm = "auto"
    precision: Precision = "default"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Map `[B, H, W, 3]`, normalised, to maps at 1/2 (stem), 1/4, 1/8, ... of the size."""
        conv = {"dtype": self.dtype, "form": self.conv_form, "precision": self.precision}
        x = Conv(self.channels, 7, stride=2, use_bias=False, name="conv1", **conv)(x)
        x = nn.relu(BatchNorm(self.dtype, self.axis_name, name="bn1")(x, train))
        found = [x]
        x = _max_pool(x)
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = _Block(
                    self.channels * 2**stage, 2 if stage and not i else 1, self.bottleneck,
                    axis_name=self.axis_name, name=f"layer{stage + 1}_{i}", **conv,
                )(x, train)  # fmt: skip
            found.append(x)
        return tuple(found)


class _Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck, and the input; batch norm after each convolution."""

    channels: int
    stride: int
    bottleneck: bool
    axis_name: str | None
    dtype: Any
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def step(x: jax.Array, width: int, side: int, stride: int, name: str) -> jax.Array:
            conv = Conv(
                width, side, stride=stride, use_bias=False, dtype=self.dtype, form=self.form,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                precision=self.precision, name=f"conv{name}",
            )  # fmt: skip
            return BatchNorm(self.dtype, self.axis_name, name=f"bn{name}")(conv(x), train)

        width = self.channels * (4 if self.bottleneck else 1)
        if self.bottleneck:  # torchvision's: the stride is the 3x3 convolution's
            y = nn.relu(step(x, self.channels, 1, 1, "1"))
            y = nn.relu(step(y, self.channels, 3, self.stride, "2"))
            y = step(y, width, 1, 1, "3")
        else:
            y = nn.relu(step(x, width, 3, self.stride, "1"))
            y = step(y, width, 3, 1, "2")
        if self.stride != 1 or x.shape[-1] != width:
            x = step(x, width, 1, self.stride, "_skip")
        return nn.relu(x + y)


def _max_pool(x: jax.Array) -> jax.Array:
    """3x3 maxima with stride 2 and padding 1, of values that are at least 0."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = ((n + 1) // 2 for n in x.shape[1:3])
    windows = [
        padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]
    return functools.reduce(jnp.maximum, windows)


# torchvision's without the dense layer: 21,284,672, 23,508,032 and 42,500,160 parameters.
PRESETS: dict[str, ResNetBody] = {
    "resnet34": ResNetBody(),
    "resnet50": ResNetBody(bottleneck=True),
    "resnet101": ResNetBody((3, 4, 23, 3), bottleneck=True),
}
