"""Self-attention over the pixels of feature maps, as SAGAN and fastai have it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.layers.conv import Conv


class SelfAttention(nn.Module):
    """Adds to every pixel a weighted sum of all pixels, times a gain that is 0 at first.

    Pixel j gets Σ_i softmax_i(f_i · g_j) h_i with f, g (an eighth of the channels) and h 1x1 convolutions
    under spectral normalisation, without bias.

    Attributes:
        dtype: compute type; the softmax is float32.
        precision: of float32 multiplications on accelerators.

    Source: Zhang et al. 2019 (SAGAN), equations 1 to 3; fastai's `SelfAttention`, without the output
      convolution.
    """

    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape; `train` takes a step of each power iteration."""
        batch, height, width, channels = x.shape

        def project(features: int, name: str) -> jax.Array:
            layer = Conv(
                features, 1, use_bias=False, spectral=True, dtype=self.dtype, precision=self.precision,
                name=name,
            )  # fmt: skip
            return layer(x, train).reshape(batch, height * width, features)

        small = max(1, channels // 8)
        f, g, h = project(small, "query"), project(small, "key"), project(channels, "value")
        precision = None if self.precision == "default" else self.precision
        scores = jnp.einsum(
            "bif,bjf->bij", f, g, precision=precision, preferred_element_type=jnp.float32
        )  # fmt: skip
        weights = jax.nn.softmax(scores, axis=1).astype(self.dtype)
        found = jnp.einsum("bic,bij->bjc", h, weights, precision=precision).reshape(x.shape)
        gain = self.param("gamma", nn.initializers.zeros, (1,))
        return x + found * gain.astype(self.dtype).reshape(1, 1, 1, 1)
