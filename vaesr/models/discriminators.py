"""Discriminators of super-resolution GANs: SRGAN's, ESRGAN's VGG style, Real-ESRGAN's U-Net."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.imaging import imresize
from vaesr.layers import BatchNorm, Conv


class SRGANDiscriminator(nn.Module):
    """Eight 3x3 convolutions, every second of stride 2, and two dense layers.

    The dense layers fix the size of the images it is made for. Logits come out; the sigmoid of the paper is
    in the loss. Batch statistics are in the collection "batch_stats".

    Attributes:
        channels: of the first convolution; doubled three times.
        hidden: units of the first dense layer.
        stages: pairs of convolutions; 4 in the paper, each halving the size.
        dtype: compute type; parameters and output are float32.
        axis_name: of the devices under `pmap`, for statistics over all of them.

    Source: Ledig et al. 2017 (SRGAN), figure 4.
    """

    channels: int = 64
    hidden: int = 1024
    stages: int = 4
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Judge a batch of images.

        Args:
            image: RGB `[B, H, W, 3]` in [0, 1], sides multiples of `2**stages`.
            train: normalise by the batch's own statistics.

        Returns:
            float32 logits `[B, 1]`, large where the image looks real.

        Raises:
            ValueError: if `image` is no batch of RGB images of such sides.
        """
        _check(image, 2**self.stages)
        norm = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = image * 2 - 1
        for i in range(2 * self.stages):
            width = self.channels * 2 ** min(i // 2, 3)
            x = Conv(width, stride=1 + i % 2, dtype=self.dtype, name=f"conv_{i}")(x)
            x = BatchNorm(name=f"norm_{i}", **norm)(x, train) if i else x
            x = _leaky(x)
        x = x.reshape(x.shape[0], -1)
        x = _leaky(nn.Dense(self.hidden, dtype=self.dtype, name="dense_0")(x))
        return nn.Dense(1, dtype=self.dtype, name="dense_1")(x).astype(jnp.float32)


class VGGDiscriminator(nn.Module):
    """ESRGAN's: pairs of a 3x3 convolution and a 4x4 one of stride 2, down to 4x4 pixels; two dense layers.

    Attributes:
        channels: of the first pair; doubled up to three times.
        hidden: units of the first dense layer.
        stages: pairs; 5 judge images of 128x128.
        dtype: compute type; parameters and output are float32.
        axis_name: of the devices under `pmap`, for statistics over all of them.

    Source: BasicSR, `VGGStyleDiscriminator`; Wang et al. 2018 (ESRGAN), section 3.
    """

    channels: int = 64
    hidden: int = 100
    stages: int = 5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Judge a batch of images.

        Args:
            image: RGB `[B, side, side, 3]` in [0, 1] with side `4 * 2**stages`.
            train: normalise by the batch's own statistics.

        Returns:
            float32 logits `[B, 1]`, large where the image looks real.

        Raises:
            ValueError: if `image` is no batch of RGB images of this size.
        """
        side = 4 * 2**self.stages
        if image.ndim != 4 or image.shape[1:] != (side, side, 3):
            raise ValueError(
                f"image has shape {image.shape}; {self.stages} stages expect [B, {side}, {side}, 3]."
            )
        norm = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = image
        for i in range(self.stages):
            width = self.channels * 2 ** min(i, 3)
            x = Conv(width, use_bias=i == 0, dtype=self.dtype, name=f"conv{i}_0")(x)
            x = _leaky(BatchNorm(name=f"bn{i}_0", **norm)(x, train) if i else x)
            x = Conv(width, 4, stride=2, use_bias=False, dtype=self.dtype, name=f"conv{i}_1")(x)
            x = _leaky(BatchNorm(name=f"bn{i}_1", **norm)(x, train))
        x = x.reshape(x.shape[0], -1)
        x = _leaky(nn.Dense(self.hidden, dtype=self.dtype, name="linear1")(x))
        return nn.Dense(1, dtype=self.dtype, name="linear2")(x).astype(jnp.float32)


class UNetDiscriminator(nn.Module):
    """Real-ESRGAN's: a U-Net with spectral normalisation that judges every pixel.

    The directions of the spectral norms are in the collection "spectral".

    Attributes:
        channels: of the first convolution; doubled three times on the way down.
        dtype: compute type; parameters and output are float32.

    Source: Wang et al. 2021 (Real-ESRGAN), section 3.4; Real-ESRGAN, `UNetDiscriminatorSN`.
    """

    channels: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Judge a batch of images.

        Args:
            image: RGB `[B, H, W, 3]` in [0, 1], sides multiples of 8.
            train: take a step of each power iteration.

        Returns:
            float32 logits `[B, H, W, 1]`, large where the image looks real.

        Raises:
            ValueError: if `image` is no batch of RGB images of such sides.
        """
        _check(image, 8)

        def conv(x: jax.Array, width: int, number: int, down: bool = False) -> jax.Array:
            layer = Conv(
                width, 4 if down else 3, stride=2 if down else 1, use_bias=False,
                spectral=True, dtype=self.dtype, name=f"conv{number}",
            )  # fmt: skip
            return _leaky(layer(x, train))

        def enlarge(x: jax.Array) -> jax.Array:
            return imresize(x, 2, method="bilinear").astype(self.dtype)

        width = self.channels
        levels = [_leaky(Conv(width, dtype=self.dtype, name="conv0")(image))]
        for i in (1, 2, 3):
            levels.append(conv(levels[-1], width * 2**i, i, down=True))
        x = levels[3]
        for i, skip in ((4, levels[2]), (5, levels[1]), (6, levels[0])):
            x = conv(enlarge(x), skip.shape[-1], i) + skip
        x = conv(conv(x, width, 7), width, 8)
        return Conv(1, dtype=self.dtype, name="conv9")(x).astype(jnp.float32)


def _check(image: jax.Array, multiple: int) -> None:
    wrong = image.ndim != 4 or image.shape[-1] != 3
    if wrong or any(n < multiple or n % multiple for n in image.shape[1:3]):
        raise ValueError(
            f"image has shape {image.shape}; expected [B, H, W, 3] with sides that are multiples of "
            f"{multiple}."
        )


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


# Parameter counts: 23,565,505 for images of 96x96 (the paper's), 14,499,401 and 4,376,897.
PRESETS: dict[str, SRGANDiscriminator | VGGDiscriminator | UNetDiscriminator] = {
    "srgan": SRGANDiscriminator(),
    "vgg128": VGGDiscriminator(),
    "unet": UNetDiscriminator(),
}
