"""KernelGAN (Bell-Kligler, Shocher and Irani 2019): a deep linear generator and a critic of small patches.

The generator learns to shrink one image so that patches of the result look like patches of the image itself:
what it then does is the blur kernel between the two scales. It is linear, so all its layers are one kernel;
they are composed into it, which costs a tenth of applying them.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vaesr.imaging.blur import correlate
from vaesr.layers import SpectralNorm

Array = jax.Array
_HIGHEST = lax.Precision.HIGHEST
_SLOPE = nn.initializers.variance_scaling(0.01, "fan_avg", "normal")  # Xavier's, with a gain of 0.1


class KernelGenerator(nn.Module):
    """Linear layers without bias, the last of which keeps every `stride`-th pixel, of each colour alone.

    Attributes:
        channels: between the layers.
        sides: of the layers' kernels.
        stride: the factor that images are made smaller by.
    """

    channels: int = 64
    sides: tuple[int, ...] = (7, 5, 3, 1, 1, 1)
    stride: int = 2

    @property
    def side(self) -> int:
        """Of the one kernel that all layers are together."""
        return sum(self.sides) - len(self.sides) + 1

    def setup(self) -> None:
        last = len(self.sides) - 1
        self.kernels = [
            self.param(
                f"kernel_{i}", _SLOPE,
                (side, side, 1 if i == 0 else self.channels, 1 if i == last else self.channels),
            )
            for i, side in enumerate(self.sides)
        ]  # fmt: skip

    def kernel(self) -> Array:
        """All layers as one kernel `[side, side]`, to be correlated with the image."""
        # From the output back, where there is one channel: a product with a matrix a layer.
        whole = self.kernels[-1][..., 0].transpose(2, 0, 1)  # [C, k, k]
        for own in self.kernels[-2::-1]:
            whole = _composed(own, whole)
        return whole[0]

    def __call__(self, x: Array) -> Array:
        """Shrink `[N, H, W, C]` in [0, 1] to `[N, (H - side) // stride + 1, ..., C]`.

        The network sees [-1, 1].
        """
        return (correlate(2 * x - 1, self.kernel(), stride=self.stride) + 1) / 2

    def layered(self, x: Array) -> Array:
        """The same, layer by layer."""
        count, height, width, colours = x.shape
        y = (2 * x - 1).transpose(0, 3, 1, 2).reshape(count * colours, height, width, 1)
        for i, kernel in enumerate(self.kernels):
            stride = self.stride if i == len(self.sides) - 1 else 1
            y = lax.conv_general_dilated(
                y, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=_HIGHEST,
            )  # fmt: skip
        return (y.reshape(count, colours, *y.shape[1:3]).transpose(0, 2, 3, 1) + 1) / 2


def _composed(first: Array, rest: Array) -> Array:
    """A layer `[a, a, C, F]` and what follows it, `[F, b, b]`, as one: `[C, a + b - 1, a + b - 1]`."""
    side, _, inputs, outputs = first.shape
    other = rest.shape[-1]
    pairs = jnp.dot(
        first.transpose(2, 0, 1, 3).reshape(-1, outputs), rest.reshape(outputs, -1), precision=_HIGHEST
    )
    if side == 1 or other == 1:
        return pairs.reshape(inputs, max(side, other), max(side, other))
    meet = _meetings(side, other)
    whole = jnp.dot(pairs.reshape(inputs, -1), meet, precision=_HIGHEST)
    return whole.reshape(inputs, side + other - 1, side + other - 1)


@functools.cache
def _meetings(a: int, b: int) -> np.ndarray:
    """`[a a b b, (a + b - 1)²]`: 1 where the sum of two places is the third."""
    total = a + b - 1
    one = np.zeros((a, b, total), np.float32)
    i, j = np.meshgrid(np.arange(a), np.arange(b), indexing="ij")
    one[i, j, i + j] = 1
    return np.einsum("ijr,klc->ikjlrc", one, one).reshape(a * a * b * b, total * total)


class KernelDiscriminator(nn.Module):
    """Says of every patch of an image whether it is the image's own, by one 7x7 and then 1x1 convolutions.

    All weights are spectrally normalised; batch statistics are always the batch's own.

    Attributes:
        channels: between the layers.
        side: of the patches.
        blocks: of 1x1 convolution, batch normalisation and ReLU.
    """

    channels: int = 64
    side: int = 7
    blocks: int = 5

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map `[N, H, W, C]` in [0, 1] to `[N, H - side + 1, W - side + 1]` in (0, 1).

        `train` moves the spectral vectors on. The network sees [-1, 1].
        """
        count, height, width, colours = x.shape
        size = height - self.side + 1, width - self.side + 1
        y = _patches(2 * x - 1, self.side)

        def linear(y: Array, features: int, name: str) -> Array:
            kernel = self.param(f"{name}_kernel", _init_of(self.side if name == "first" else 1, colours),
                                (y.shape[-1], features))  # fmt: skip
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (features,))
            return _product(y, SpectralNorm(name=f"{name}_spectral")(kernel, train)) + bias[None]

        y = linear(y, self.channels, "first")
        for i in range(self.blocks):
            y = linear(y, self.channels, f"block_{i}")
            scale = self.param(f"block_{i}_scale", _near_one, (self.channels,))
            shift = self.param(f"block_{i}_shift", nn.initializers.zeros, (self.channels,))
            centred = y - y.mean(axis=0, keepdims=True)
            variance = jnp.square(centred).mean(axis=0, keepdims=True)
            y = nn.relu(centred * (lax.rsqrt(variance + 1e-5) * scale[None]) + shift[None])
        return nn.sigmoid(linear(y, 1, "last")).reshape(count, *size)


def _near_one(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def _init_of(side: int, colours: int) -> nn.initializers.Initializer:
    """Xavier's of a convolution, whose kernel is here a matrix of patches."""
    if side == 1:
        return _SLOPE

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        patch, features = shape
        deviation = 0.1 * math.sqrt(2 / (patch + side**2 * features))
        return deviation * jax.random.normal(key, shape, dtype)

    return init


def _patches(x: Array, side: int) -> Array:
    """Every patch of `[N, H, W, C]` as a row of `[N h w, side side C]`, row after row."""
    count, height, width, channels = x.shape
    h, w = height - side + 1, width - side + 1
    across = jnp.concatenate([x[:, :, j : j + w] for j in range(side)], axis=-1)
    both = jnp.concatenate([across[:, i : i + h] for i in range(side)], axis=-1)
    return both.reshape(count * h * w, side * side * channels)


@jax.custom_vjp
def _product(x: Array, matrix: Array) -> Array:
    return jnp.dot(x, matrix, precision=_HIGHEST)


def _forward(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, matrix), (x, matrix)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, matrix = kept
    return jnp.dot(g, matrix.T, precision=_HIGHEST), jnp.dot(x.T, g, precision=_HIGHEST)


_product.defvjp(_forward, _backward)
