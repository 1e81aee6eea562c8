"""Halving and doubling the size of feature maps by convolutions, in forms that XLA compiles well."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaesr.forms import with_own_gradients
from vaesr.layers.conv import check_types, check_words, lax_conv, torch_uniform

FORMS = ("auto", "direct", "vjp", "subpixel")


def conv_transpose2d(
    x: jax.Array, kernel: jax.Array, *, form: str = "auto", precision: str = "default"
) -> jax.Array:
    """Double the size by a transposed 4x4 convolution of stride 2: the gradient of the halving one.

    All forms give the same numbers and gradients to 1e-5 of the largest:

    - `direct`: XLA's dilated convolution and its gradients. The kernel's gradient takes XLA's CPU back end
      some 20 times as long as the forward pass.
    - `vjp`: the same forward pass; as gradients, the halving convolution and its own kernel's gradient.
    - `subpixel`: one 3x3 convolution with four times the outputs, whose pixels are interleaved. More
      multiplications (9 for 4), none of them dilated.
    - `auto`: `vjp` on CPUs, `direct` elsewhere, of the platform that the program is compiled for.

    Args:
        x: `[B, H, W, C]`, floating point.
        kernel: `[4, 4, C, F]`, same type; element (a, b) reaches output (2i + a - 1, 2j + b - 1) from input
            (i, j), as in PyTorch's `ConvTranspose2d(4, stride=2, padding=1)`.
        form: one of `FORMS`.
        precision: of float32 multiplications on accelerators: "default", "high" or "highest".

    Returns:
        `[B, 2H, 2W, F]` in the type of `x`.

    Raises:
        ValueError: if the shapes or types don't fit or a word is unknown.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (4, 4, x.shape[-1]):
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [4, 4, C, F]."
        )
    check_types(x, kernel)
    check_words(form, FORMS, precision)
    if form == "auto":
        return with_own_gradients(_with_halving_gradients, _direct, (precision,), x, kernel)
    forms: dict[str, Any] = {"direct": _direct, "vjp": _with_halving_gradients, "subpixel": _subpixel}
    return forms[form](x, kernel, precision)


def _direct(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    # Output o takes input i with kernel element a = o + 1 - 2i: a convolution of the input, spread by zeros,
    # with the turned kernel.
    return lax_conv(x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), precision, lhs_dilation=(2, 2))


def _halve(y: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    """The convolution that this one is the transpose of, `[B, 2H, 2W, F]` to `[B, H, W, C]`."""
    return lax_conv(y, kernel.swapaxes(2, 3), (2, 2), ((1, 1), (1, 1)), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_halving_gradients(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return _direct(x, kernel, precision)


def _forward(
    x: jax.Array, kernel: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct(x, kernel, precision), (x, kernel)


def _backward(precision: str, kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of y · g is linear in the kernel, and equals the sum of x · halve(g)."""
    x, kernel = kept
    dx, of_kernel = jax.vjp(lambda k: _halve(g, k, precision), kernel)
    return dx, of_kernel(x)[0]


_with_halving_gradients.defvjp(_forward, _backward)


def _subpixel(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    batch, height, width, channels = x.shape
    features = kernel.shape[3]
    # Output 2i + r takes inputs i + d - 1 with element a = r + 1 - 2 (d - 1) = r + 3 - 2d, d = 0, 1, 2.
    padded = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    taps = [[padded[r + 4 - 2 * d] for d in range(3)] for r in range(2)]
    rows = jnp.stack([jnp.stack(row) for row in taps])  # [2, 3, 6, C, F]
    both = jnp.stack([jnp.stack([rows[:, :, s + 4 - 2 * e] for e in range(3)], axis=2) for s in range(2)])
    # [s, r, d, e, C, F] -> [d, e, C, (r, s, F)]
    weights = both.transpose(2, 3, 4, 1, 0, 5).reshape(3, 3, channels, 4 * features)
    y = lax_conv(x, weights, (1, 1), "SAME", precision)
    y = y.reshape(batch, height, width, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, 2 * height, 2 * width, features)


class ConvTranspose(nn.Module):
    """A 4x4 transposed convolution that doubles the size, with PyTorch's default initialisation.

    Attributes:
        features: output channels.
        dtype: compute type; the parameters are float32.
        form: see `conv_transpose2d`.
        precision: see `conv_transpose2d`.
    """

    features: int
    dtype: Any = jnp.float32
    form: str = "auto"
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, 2H, 2W, features]` in `dtype`."""
        # PyTorch counts a transposed convolution's fan-in by its outputs.
        init = torch_uniform(16 * self.features)
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        y = conv_transpose2d(
            x.astype(self.dtype), kernel.astype(self.dtype), form=self.form, precision=self.precision
        )
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class DownConv(nn.Module):
    """A 4x4 convolution of stride 2 that halves the size, with PyTorch's default initialisation.

    Attributes:
        features: output channels.
        dtype: compute type; the parameters are float32.
        precision: of float32 multiplications on accelerators.
    """

    features: int
    dtype: Any = jnp.float32
    precision: str = "default"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, 2H, 2W, C]` to `[B, H, W, features]` in `dtype`."""
        init = torch_uniform(16 * x.shape[-1])
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = lax_conv(x, kernel, (2, 2), ((1, 1), (1, 1)), self.precision)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
