"""The convolutional halves of AlexNet, VGG and SqueezeNet 1.1, whose features perceptual metrics compare.

Parameters come from `vaesr.pretrained`. Everything is as torchvision has it, so that its weights fit.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.layers import Conv, ConvForm

Array = jax.Array

_VGG_WIDTHS = (64, 128, 256, 512, 512)


def _normalise(image: Array, mean: tuple[float, ...], deviation: tuple[float, ...], least: int) -> Array:
    """Images in the unit in which the weights were learned; ones too small to leave a feature are refused."""
    if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < least:
        raise ValueError(f"image must be [B, H, W, 3] of at least {least} pixels a side, got {image.shape}.")
    shape = (1, 1, 1, 3)
    shift, scale = (np.asarray(x, np.float32).reshape(shape) for x in (mean, deviation))
    return (image - shift) / scale


def _conv(width: int, window: int, stride: int, padding: int, dtype: Any, name: str) -> nn.Conv:
    """A square convolution, in full float32 where float32 is asked for: the default is TF32 on GPUs."""
    precision = jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
    return nn.Conv(
        width, (window, window), stride, padding=padding, dtype=dtype, precision=precision, name=name
    )


class AlexNet(nn.Module):
    """AlexNet's five convolutions; the features after each one's ReLU.

    Attributes:
        mean: subtracted from RGB in [0, 1].
        deviation: what that is divided by.
        dtype: the compute type. Parameters and outputs are float32.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, ...]:
        """Map images `[B, H, W, 3]` in [0, 1], of at least 31 pixels a side, to features `[B, h, w, c]`."""
        x = _normalise(image, self.mean, self.deviation, 31)
        found = []
        for number, (width, window, stride) in enumerate(
            ((64, 11, 4), (192, 5, 1), (384, 3, 1), (256, 3, 1), (256, 3, 1)), 1
        ):
            if number in (2, 3):
                x = nn.max_pool(x, (3, 3), (2, 2))
            # 11 pixels are padded by 2 only.
            x = _conv(width, window, stride, min(window // 2, 2), self.dtype, f"conv{number}")(x)
            x = nn.relu(x)
            found.append(x.astype(jnp.float32))
        return tuple(found)


class VGG(nn.Module):
    """VGG16 or VGG19 up to the last of the layers asked for.

    Attributes:
        depths: convolutions of each stage: (2, 2, 3, 3, 3) is VGG16, (2, 2, 4, 4, 4) VGG19.
        taps: names of the features wanted, in order: "conv5_4" before the ReLU, "relu5_4" after it.
        pool: between stages: "max", or "l2", the root of blurred squares (DISTS).
        mean: subtracted from RGB in [0, 1].
        deviation: what that is divided by.
        dtype: the compute type. Parameters and outputs are float32.
        conv_form: see `vaesr.layers.conv2d`. "direct" is the most exact; "auto" is for training on CPUs.
    """

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    taps: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    pool: Literal["max", "l2"] = "max"
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    dtype: Any = jnp.float32
    conv_form: ConvForm = "direct"

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, ...]:
        """Map images `[B, H, W, 3]` in [0, 1], of at least 16 pixels a side, to features `[B, h, w, c]`.

        Raises:
            ValueError: if the image has another shape, a tap doesn't exist, or `pool` is unknown.
        """
        names = [(s, i) for s, depth in enumerate(self.depths, 1) for i in range(1, depth + 1)]
        known = [f"{kind}{s}_{i}" for s, i in names for kind in ("conv", "relu")]
        if not self.taps or [tap for tap in known if tap in self.taps] != list(self.taps):
            raise ValueError(f"taps must be some of {known}, in this order, got {self.taps}.")
        if self.pool not in ("max", "l2"):
            raise ValueError(f'pool must be "max" or "l2", got {self.pool!r}.')
        x = _normalise(image, self.mean, self.deviation, 2 ** (len(self.depths) - 1))
        found: list[Array] = []
        for stage, index in names:
            if index == 1 and stage > 1:
                x = max_pool(x) if self.pool == "max" else l2_pool(x)
            x = Conv(
                _VGG_WIDTHS[stage - 1], dtype=self.dtype, form=self.conv_form, name=f"conv{stage}_{index}",
                precision="highest" if jnp.dtype(self.dtype) == jnp.float32 else "default",
            )(x)  # fmt: skip
            for kind in ("conv", "relu"):
                x = nn.relu(x) if kind == "relu" else x
                if f"{kind}{stage}_{index}" in self.taps:
                    found.append(x.astype(jnp.float32))
            if len(found) == len(self.taps):
                break
        return tuple(found)


def max_pool(x: Array) -> Array:
    """The maximum of every 2x2 pixels of `[B, H, W, C]`; an odd row or column at the end is left out."""
    height, width = (n // 2 * 2 for n in x.shape[1:3])
    # Four slices: XLA's gradient of a pooling window is slow on CPUs.
    corners = [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))


def l2_pool(x: Array) -> Array:
    """The root of squares blurred by (1, 2, 1) / 4 both ways and halved: pooling without aliasing.

    `[B, H, W, C]` becomes `[B, ceil(H / 2), ceil(W / 2), C]`.

    Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity" (DISTS), 2020,
      section 3.1; Henaff and Simoncelli, "Geodesics of learned representations", 2016.
    """
    squares = jnp.square(x)
    for axis in (1, 2):
        around = [(0, 0)] * 4
        around[axis] = (1, 1)
        length = squares.shape[axis]
        padded = jnp.pad(squares, around)
        first, second, third = (
            jax.lax.slice_in_dim(padded, i, i + length, stride=2, axis=axis) for i in range(3)
        )
        squares = (first + 2 * second + third) / 4
    return jnp.sqrt(squares + 1e-12)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1's convolution and eight fire modules; features before each pooling and of the last four.

    Attributes:
        mean: subtracted from RGB in [0, 1].
        deviation: what that is divided by.
        dtype: the compute type. Parameters and outputs are float32.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> tuple[Array, ...]:
        """Map images `[B, H, W, 3]` in [0, 1], of at least 17 pixels a side, to features `[B, h, w, c]`."""
        x = _normalise(image, self.mean, self.deviation, 17)

        def conv(x: Array, width: int, window: int, name: str, stride: int = 1) -> Array:
            padding = window // 2 if stride == 1 else 0
            return nn.relu(_conv(width, window, stride, padding, self.dtype, name)(x))

        x = conv(x, 64, 3, "conv1", stride=2)
        found = [x]
        squeezed = (16, 16, 32, 32, 48, 48, 64, 64)
        for number, width in enumerate(squeezed, 2):
            if number in (2, 4, 6):
                x = _pool_to_the_edge(x)
            x = conv(x, width, 1, f"fire{number}_squeeze")
            sides = [conv(x, 4 * width, n, f"fire{number}_expand{n}x{n}") for n in (1, 3)]
            x = jnp.concatenate(sides, axis=-1)
            if number in (3, 5) or number >= 6:
                found.append(x)
        return tuple(feature.astype(jnp.float32) for feature in found)


def _pool_to_the_edge(x: Array) -> Array:
    """3x3 maxima with stride 2, the last window also where it hangs over the edge (`ceil_mode`)."""
    over = [(0, (n - 3) % 2) for n in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding=over)


PRESETS: dict[str, AlexNet | VGG | SqueezeNet] = {
    "lpips_alex": AlexNet(),
    "lpips_vgg": VGG(),
    "lpips_squeeze": SqueezeNet(),
    "dists": VGG(pool="l2"),
    # The features of SRGAN's and ESRGAN's perceptual losses.
    "vgg19": VGG((2, 2, 4, 4, 4), ("conv5_4",)),
}
