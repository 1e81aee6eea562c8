"""The critics of decrappify and NoGAN: fastai's and DeOldify's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.layers import Conv, ConvForm, SelfAttention


class Critic(nn.Module):
    """4x4 convolutions of stride 2 under spectral normalisation, without batch norm; channels drop out.

    Attributes:
        channels: of the first convolution; fastai 128, DeOldify 256.
        blocks: further halvings; channels double at each; 3 in both.
        dropout: share of channels dropped in training, in [0, 1); half of it after the first convolution.
        dense: a dense residual block after the first convolution, as in fastai's.
        dtype: compute type; parameters and output are float32.
        conv_form: how the platform computes convolutions, see `vaesr.layers.conv2d`.

    Source: fastai 1.0, `gan_critic`; DeOldify, `custom_gan_critic`.
    """

    channels: int = 256
    blocks: int = 3
    dropout: float = 0.15
    dense: bool = False
    dtype: Any = jnp.float32
    conv_form: ConvForm = "auto"

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        """Judge a batch of images.

        Args:
            image: RGB `[B, H, W, 3]` in [0, 1], at least `4 * 2**(blocks + 1)` pixels a side.
            train: take a step of each power iteration, and drop channels.
            keys: random keys `[B]`, one an image; needed for dropping.

        Returns:
            float32 logits `[B, h, w, 1]`, one a patch, large where it looks real.

        Raises:
            ValueError: if `image` is no batch of RGB images of this size, or keys are missing.
        """
        least = 4 * 2 ** (self.blocks + 1)
        if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < least:
            raise ValueError(
                f"image has shape {image.shape}; expected [B, H, W, 3] of at least {least} pixels a side."
            )
        dropping = train and self.dropout > 0 and not self.is_initializing()
        if dropping and keys is None:
            raise ValueError("keys is None; training with dropout takes one random key an image.")

        def conv(x: jax.Array, width: int, side: int, stride: int, name: str) -> jax.Array:
            layer = Conv(
                width, side, stride=stride, padding=1 if side == 4 else None,
                spectral=True, dtype=self.dtype, form=self.conv_form,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
                bias_init=nn.initializers.zeros, name=name,
            )  # fmt: skip
            return nn.leaky_relu(layer(x, train), 0.2)

        def drop(x: jax.Array, share: float, number: int) -> jax.Array:
            return _drop_channels(x, share, keys, number) if dropping and keys is not None else x

        shape = (1, 1, 1, 3)
        mean, deviation = (
            np.asarray(v, np.float32).reshape(shape) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        width = self.channels
        x = drop(conv((image - mean) / deviation, width, 4, 2, "conv_in"), self.dropout / 2, 0)
        if self.dense:
            y = conv(conv(x, width, 3, 1, "dense_0"), width, 3, 1, "dense_1")
            x, width = jnp.concatenate([x, y], axis=-1), 2 * width
        for i in range(self.blocks):
            width *= 2
            x = conv(x, width, 4, 2, f"conv_{i}")
            x = SelfAttention(self.dtype, name="attention")(x, train) if i == 0 else x
            x = drop(x, self.dropout, i + 1)
        x = conv(x, width, 3, 1, "conv_last")
        out = Conv(
            1, 4, padding=0, use_bias=False, spectral=True, dtype=self.dtype, form=self.conv_form,
            name="conv_out",
        )  # fmt: skip
        return out(x, train).astype(jnp.float32)


def _drop_channels(x: jax.Array, share: float, keys: jax.Array, number: int) -> jax.Array:
    """Whole channels of each image set to 0 by its own key, the others enlarged to keep the mean."""

    def kept(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - share, x.shape[-1:])

    mask = jax.vmap(kept)(keys).astype(x.dtype) / (1 - share)
    return x * mask[:, None, None, :]


# 82,456,449 and 82,167,553 parameters.
PRESETS: dict[str, Critic] = {
    "fastai": Critic(channels=128, dense=True),
    "deoldify": Critic(channels=256),
}
