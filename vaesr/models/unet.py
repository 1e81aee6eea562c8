"""The U-Net of decrappify and DeOldify: fastai's on a ResNet, and Antic's deep and wide ones."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaesr.imaging import imresize, pixel_shuffle
from vaesr.imaging.colour import BT601_LUMA, IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.layers import BatchNorm, Conv, ConvForm, Precision, SelfAttention, check_choices, check_rgb
from vaesr.models import PlainRestorer
from vaesr.models.resnet import ResNetBody


class UNet(PlainRestorer, nn.Module):
    """An encoder that shrinks the image 32-fold, and a decoder that sees each of its sizes.

    The decoder enlarges by sub-pixel convolutions that begin as nearest neighbour (ICNR), blurs what they
    make, and joins the encoder's map of that size. Images of other sizes than multiples of 32 are mirrored
    at the bottom and the right, and the result is cut. Batch statistics are in "batch_stats", spectral
    vectors in "spectral".

    Attributes:
        scale: the input is first enlarged so many times, bilinearly; at least 1.
        blocks: residual blocks of each of the encoder's stages: 3 4 6 3 is ResNet34 and ResNet50, 3 4 23 3
            ResNet101.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with four times the outputs, from ResNet50 on.
        channels: channels of the encoder's stem, 64 in ResNets; the decoder's widths follow from it.
        style: the decoder: "plain" is fastai's, two convolutions a size; "deep" DeOldify's Artistic, the
            same with `factor` times the outputs; "wide" DeOldify's Stable, one convolution a size with
            `8 * channels * factor` outputs.
        factor: width of the deep and wide decoders: 1.5 (Artistic) and 2 (Stable).
        norm: norm of the decoder's convolutions: "weight", "spectral" (with batch norm, as in DeOldify) or
            "batch".
        self_attention: attend over all pixels at an eighth of the size.
        bottleneck_head: the last block has half the channels inside (`bottle` of fastai).
        output_range: range of the sigmoid at the end, in ImageNet's units, -3 3 in fastai; None is unbounded.
        residual: what the network makes is added to the enlarged input, and begins near nothing: a short
            training from scratch need not learn to pass the image on. For the norm "weight", unbounded.
        keep_luma: outside training, the luma is the input's and only the chroma the network's.
        dtype: compute type; parameters and output are float32.
        axis_name: of the devices under `pmap`, for statistics over all of them.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.
        precision: how GPUs and TPUs multiply float32: by default in TF32 or bfloat16, "highest" in full.

    Source: fastai 1.0, `DynamicUnet`; DeOldify, `DynamicUnetDeep` and `DynamicUnetWide`; Aitken et al. 2017
      (ICNR); Sugawara et al. 2018 (blur).
    """

    scale: int = 1
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = False
    channels: int = 64
    style: Literal["plain", "deep", "wide"] = "plain"
    factor: float = 1.0
    norm: Literal["weight", "spectral", "batch"] = "weight"
    self_attention: bool = False
    bottleneck_head: bool = False
    output_range: tuple[float, float] | None = None
    residual: bool = False
    keep_luma: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None
    conv_form: ConvForm = "auto"
    precision: Precision = "default"
    # At a 32nd of the size, and with attention, every pixel sees about the whole image.
    receptive_radius: ClassVar[None] = None

    @nn.compact
    def __call__(self, x_lr: jax.Array, train: bool = False) -> jax.Array:
        """Restore a batch of images.

        Args:
            x_lr: RGB `[B, h, w, 3]` in [0, 1].
            train: normalise by the batch's own statistics.

        Returns:
            float32 `[B, h * scale, w * scale, 3]` in about [0, 1], not clipped.

        Raises:
            ValueError: if `x_lr` is no batch of RGB images, a word is unknown or `residual` doesn't fit.
        """
        check_rgb(x_lr)
        check_choices(self)
        if self.residual and (self.norm != "weight" or self.output_range is not None):
            raise ValueError(
                f"residual goes with norm 'weight' and output_range None, got {self.norm!r}, "
                f"{self.output_range}."
            )
        image = x_lr if self.scale == 1 else imresize(x_lr, self.scale, method="bilinear")
        _, height, width, _ = image.shape
        shape = (1, 1, 1, 3)
        mean, deviation = (
            np.asarray(v, np.float32).reshape(shape) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        normal = (image - mean) / deviation
        x = self._decode(_pad(normal, 2 ** (len(self.blocks) + 1)), train)
        x = x.astype(jnp.float32)[:, :height, :width]
        if self.residual:
            x = x + normal
        if self.output_range is not None:
            low, high = self.output_range
            x = nn.sigmoid(x) * (high - low) + low
        x = x * deviation + mean
        return transplant_chroma(image, x) if self.keep_luma and not train else x

    def _decode(self, image: jax.Array, train: bool) -> jax.Array:
        fields = {
            "norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name, "form": self.conv_form,
            "precision": self.precision,
        }  # fmt: skip
        encoder = ResNetBody(
            self.blocks, self.bottleneck, self.channels, self.dtype, self.axis_name, self.conv_form,
            self.precision, name="encoder",
        )  # fmt: skip
        *skips, x = encoder(image, train)
        x = nn.relu(BatchNorm(self.dtype, self.axis_name, name="encoder_norm")(x, train))
        count = x.shape[-1]
        x = _ConvLayer(2 * count, name="middle_0", **fields)(x, train)
        x = _ConvLayer(count, name="middle_1", **fields)(x, train)
        for i, skip in enumerate(reversed(skips)):
            last, attend = i == len(skips) - 1, self.self_attention and i == len(skips) - 3
            block = _Enlarge(
                self.style, self.factor, 8 * self.channels, last, attend, name=f"up_{i}", **fields
            )
            x = block(x, skip, train)
        x = _Shuffle(x.shape[-1], blur=False, name="final_shuffle", **fields)(x, train)
        x = jnp.concatenate([x, image.astype(x.dtype)], axis=-1)
        count = x.shape[-1]
        y = _ConvLayer(count // 2 if self.bottleneck_head else count, name="head_0", **fields)(x, train)
        x = x + _ConvLayer(count, name="head_1", **fields)(y, train)
        gain = 1e-4 if self.residual else 2.0
        return _ConvLayer(3, 1, relu=False, gain=gain, name="head_out", **fields)(x, train)


class _ConvLayer(nn.Module):
    """A convolution under a norm of its weights, ReLU, and batch norm after it where there is one."""

    features: int
    kernel_size: int = 3
    relu: bool = True
    icnr: bool = False
    gain: float = 2.0
    norm: str = "weight"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        normed = self.norm != "weight" and not (self.norm == "batch" and not self.relu)
        init = nn.initializers.variance_scaling(self.gain, "fan_in", "normal")
        x = Conv(
            self.features, self.kernel_size, use_bias=not normed, spectral=self.norm == "spectral",
            weight_norm=self.norm == "weight", kernel_init=_icnr(init) if self.icnr else init,
            bias_init=nn.initializers.zeros, dtype=self.dtype, form=self.form, precision=self.precision,
            name="conv",
        )(x, train)  # fmt: skip
        x = nn.relu(x) if self.relu else x
        return BatchNorm(self.dtype, self.axis_name, name="norm")(x, train) if normed else x


def _icnr(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Four equal outputs for each channel, so that the pixels they are shuffled into are equal at first."""

    def start(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        return jnp.repeat(init(key, (*shape[:-1], shape[-1] // 4), dtype), 4, axis=-1)

    return start


class _Shuffle(nn.Module):
    """1x1 convolution, ReLU, pixel shuffle, and the mean of every 2x2 pixels to wipe out its pattern."""

    features: int
    blur: bool = True
    norm: str = "weight"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        layer = _ConvLayer(
            4 * self.features, 1, relu=False, icnr=True, norm=self.norm, dtype=self.dtype,
            axis_name=self.axis_name, form=self.form, precision=self.precision, name="layer",
        )  # fmt: skip
        x = pixel_shuffle(nn.relu(layer(x, train)), 2)
        if not self.blur:
            return x
        padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")
        return (padded[:, 1:, 1:] + padded[:, :-1, 1:] + padded[:, 1:, :-1] + padded[:, :-1, :-1]) / 4


class _Enlarge(nn.Module):
    """Twice the size, joined with the encoder's map."""

    style: str
    factor: float
    wide: int
    last: bool
    attend: bool
    norm: str
    dtype: Any
    axis_name: str | None
    form: str
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array, train: bool = False) -> jax.Array:
        fields = {
            "norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name, "form": self.form,
            "precision": self.precision,
        }  # fmt: skip
        wide = int(self.wide * self.factor) // (2 if self.last else 1)
        up = wide // 2 if self.style == "wide" else x.shape[-1] // 2
        x = _Shuffle(up, name="shuffle", **fields)(x, train)
        skip = BatchNorm(self.dtype, self.axis_name, name="skip_norm")(skip, train)
        x = nn.relu(jnp.concatenate([x, skip], axis=-1))
        if self.style == "wide":
            x = _ConvLayer(wide // 2, name="conv", **fields)(x, train)
        else:
            count = x.shape[-1] // 2 if self.last else x.shape[-1]
            count = int(count * self.factor) if self.style == "deep" else count
            x = _ConvLayer(count, name="conv_0", **fields)(x, train)
            x = _ConvLayer(count, name="conv_1", **fields)(x, train)
        return SelfAttention(self.dtype, self.precision, name="attention")(x, train) if self.attend else x


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """The image mirrored at the bottom and the right, up to a multiple; a small one as often as it takes."""
    for axis in (1, 2):
        missing = -x.shape[axis] % multiple
        if missing:
            pads = [(0, 0)] * x.ndim
            pads[axis] = (0, missing)
            x = jnp.pad(x, pads, mode="symmetric")
    return x


def transplant_chroma(image: jax.Array, coloured: jax.Array) -> jax.Array:
    """The luma of one RGB image `[B, H, W, 3]` in [0, 1] under the chroma of another: U and V of YUV, BT.601.

    Colours that RGB does not have become paler until it has them: cutting them off would change the luma.
    The result is float32 in [0, 1].

    Source: DeOldify, `ColorizerFilter._post_process`.
    """
    luma = jnp.asarray(BT601_LUMA).reshape(1, 1, 1, 3)
    old, new = ((x * luma).sum(axis=-1, keepdims=True) for x in (image, coloured))
    # A colour is its luma plus differences that have none.
    differences = coloured - new
    room = jnp.where(differences > 0, 1 - old, old) / jnp.maximum(jnp.abs(differences), 1e-6)
    return old + differences * jnp.minimum(room.min(axis=-1, keepdims=True), 1)


_COLOURS: dict[str, Any] = {
    "norm": "spectral", "self_attention": True, "output_range": (-3.0, 3.0), "keep_luma": True,
}  # fmt: skip
# fastai's on ResNet34 (the notebooks' super-resolution, and GAN), DeOldify's Artistic and Stable. 41,229,213,
# 41,413,534, 63,647,490 and 218,222,718 parameters; the last two are the sizes of DeOldify's weight files,
# 255 and 874 MB.
PRESETS: dict[str, UNet] = {
    "decrappify": UNet(),
    "decrappify_gan": UNet(self_attention=True, output_range=(-3.0, 3.0)),
    "artistic": UNet(style="deep", factor=1.5, **_COLOURS),
    "stable": UNet(style="wide", factor=2.0, blocks=(3, 4, 23, 3), bottleneck=True, **_COLOURS),
}
