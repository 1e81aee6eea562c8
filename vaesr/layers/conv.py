"""The one convolution of the super-resolution networks, and its Linen layer."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from vaesr.forms import with_own_gradients
from vaesr.layers.spectral import SpectralNorm
from vaesr.layers.winograd import winograd_conv2d

ConvForm = Literal["auto", "loop", "additive", "direct", "patches", "winograd"]
Precision = Literal["default", "high", "highest"]
FORMS, PRECISIONS = get_args(ConvForm), get_args(Precision)


def conv2d(x: jax.Array, kernel: jax.Array, *, form: str = "auto", precision: str = "default") -> jax.Array:
    """Convolve with stride 1 and zero padding that keeps the size.

    All forms give the same numbers and gradients to 1e-5 of the largest. They differ in speed, mostly on
    CPUs, where XLA's gradient for the kernel takes three times as long as the forward pass, and 15 to 30
    times inside `lax.scan`:

    - `direct`: XLA's own convolution and gradients; the choice on GPUs and TPUs.
    - `patches`: XLA's convolution forward and for the input's gradient, one matmul for the kernel's. For
      few output channels, and inside loops.
    - `winograd`: F(4x4, 3x3), 4 times fewer multiplications in all three passes. For 3x3 kernels in
      float32 with 16 channels and more on both sides.
    - `auto`: the fastest of these for the shape on the platform that the program is compiled for.
    - `loop`: the same inside `lax.scan`, `lax.switch` and `lax.cond`, where on CPUs it avoids `direct`
      (MDSR's step under `lax.switch`: 0.11 s in place of 2.0 s).
    - `additive`: `patches` on CPUs, `direct` elsewhere; never `winograd`, whose rounding errors would make
      sums of nothing but zeros and positive products negative.

    Only `direct` has derivatives in forward mode.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[K, K, C, F]` with odd K, same type as `x`.
        form: one of `FORMS`.
        precision: of float32 multiplications on accelerators, one of `PRECISIONS`. `default` is JAX's
            (TF32 on GPUs, bf16 on TPUs, unless `jax_default_matmul_precision` says otherwise), `highest`
            full float32. CPUs and `winograd` always take the highest.

    Returns:
        `[B, H, W, F]` in the type of `x`.

    Raises:
        ValueError: if the shapes or types don't fit, the form or the precision is unknown, or the form is
            `winograd` and the kernel is not 3x3 or not float32.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [K, K, C, F]."
        )
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel has shape {kernel.shape}; expected a square with an odd side.")
    check_types(x, kernel)
    check_words(form, FORMS, precision)
    if form in _FORMS:
        return _FORMS[form](x, kernel, precision)
    on_cpu = _FORMS[_form_on_cpus(x, kernel, form)]
    if on_cpu is _direct:
        return _direct(x, kernel, precision)
    return with_own_gradients(on_cpu, _direct, (precision,), x, kernel)


def check_types(x: jax.Array, kernel: jax.Array) -> None:
    """Refuse images and a kernel that are not of one floating-point type, with a ValueError."""
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is {x.dtype} and kernel {kernel.dtype}; expected one floating-point type.")


def check_words(form: str, forms: tuple[str, ...], precision: str) -> None:
    """Refuse a form or a precision that there is not, with a ValueError."""
    for name, value, known in (("form", form, forms), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _form_on_cpus(x: jax.Array, kernel: jax.Array, form: str) -> str:
    """The form measured fastest for forward and both gradients together (float32, one Zen 5 core)."""
    side, _, c, f = kernel.shape
    if form == "additive":
        return "patches"
    if side == 3 and min(c, f) >= 16 and x.dtype == jnp.float32:
        return "winograd"
    few_outputs = side > 1 and 4 * f <= c
    return "patches" if few_outputs or form == "loop" else "direct"


def lax_precision(precision: str) -> lax.Precision | None:
    """None leaves the choice to JAX's own setting; `Precision.DEFAULT` would override it."""
    return None if precision == "default" else lax.Precision[precision.upper()]


def lax_conv(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, precision: str, **more: Any
) -> jax.Array:
    """XLA's convolution of `[B, H, W, C]` with `[K, L, C, F]`, its precision one of `PRECISIONS`."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, precision=lax_precision(precision), **more
    )


def _direct(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    return lax_conv(x, kernel, (1, 1), "SAME", precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def patches_conv2d(x: jax.Array, kernel: jax.Array, precision: str = "default") -> jax.Array:
    """`conv2d` in the form `patches`; same arguments."""
    return _direct(x, kernel, precision)


def _patches_forward(
    x: jax.Array, kernel: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct(x, kernel, precision), (x, kernel)


def _patches_backward(
    precision: str, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The input's gradient is a convolution with the turned kernel; the kernel's is one matmul.

    The kernel's tap (i, j) is the sum over positions p of x[p] g[p - (i, j) + centre]. The shifted copies
    are those of the narrower of `x` and `g`.
    """
    x, kernel = residuals
    k, _, c, f = kernel.shape
    dx = _direct(g, kernel[::-1, ::-1].swapaxes(2, 3), precision)
    shifted_g = f <= c
    wide, narrow = (x, g) if shifted_g else (g, x)
    r, (h, w) = k // 2, x.shape[1:3]
    padded = jnp.pad(narrow, ((0, 0), (r, r), (r, r), (0, 0)))
    copies = [padded[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    patches = jnp.concatenate(copies, axis=-1).reshape(-1, k * k * narrow.shape[-1])
    taps = lax.dot_general(
        wide.reshape(-1, wide.shape[-1]),
        patches,
        (((0,), (0,)), ((), ())),
        precision=lax_precision(precision),
        preferred_element_type=jnp.promote_types(wide.dtype, jnp.float32),
    )
    taps = taps.reshape(wide.shape[-1], k, k, narrow.shape[-1])
    dk = taps.transpose(1, 2, 0, 3)[::-1, ::-1] if shifted_g else taps.transpose(1, 2, 3, 0)
    return dx, dk.astype(kernel.dtype)


patches_conv2d.defvjp(_patches_forward, _patches_backward)


_FORMS: dict[str, Callable[[jax.Array, jax.Array, str], jax.Array]] = {
    "direct": _direct,
    "patches": patches_conv2d,
    "winograd": lambda x, kernel, _: winograd_conv2d(x, kernel),
}


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Initialise as PyTorch's convolutions do by default: uniform in ±1/√fan_in.

    Kaiming-uniform with a = √5 has the bound √(6 / ((1 + 5) · fan_in)), which is the bias's bound too.

    Args:
        fan_in: kernel height · width · input channels.

    Returns:
        An initializer `(key, shape, dtype) -> array`.

    Source: PyTorch `nn.Conv2d.reset_parameters`.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def strided_conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: int,
    form: str = "auto",
    precision: str = "default",
) -> jax.Array:
    """Convolve at every `stride`-th position, with `padding` zeros on each side.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[K, K, C, F]`, same type as `x`.
        stride: at least 1.
        padding: at least 0.
        form: "loop" inside `lax.cond`, `lax.switch` and `lax.scan`, where XLA's own gradients take CPUs 15 to
            30 times as long: there they become a matmul and a convolution of stride 1. Any other word leaves
            the gradients to XLA.
        precision: see `conv2d`.

    Returns:
        `[B, (H + 2 * padding - K) // stride + 1, ..., F]` in the type of `x`.

    Raises:
        ValueError: if the shapes don't fit or the image is smaller than the kernel.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [K, K, C, F]."
        )
    if min(x.shape[1:3]) + 2 * padding < kernel.shape[0]:
        raise ValueError(
            f"x has shape {x.shape}, too small for a kernel of {kernel.shape[0]} with padding {padding}."
        )
    static = stride, padding, precision
    if form != "loop":
        return _strided(x, kernel, *static)
    return with_own_gradients(_strided_in_loop, _strided, static, x, kernel)


def _strided(x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: str) -> jax.Array:
    return lax_conv(x, kernel, (stride, stride), ((padding, padding), (padding, padding)), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _strided_in_loop(x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: str) -> jax.Array:
    return _strided(x, kernel, stride, padding, precision)


def _strided_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _strided(x, kernel, stride, padding, precision), (x, kernel)


def _strided_backward(
    stride: int, padding: int, precision: str, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    side, _, channels, features = kernel.shape
    _, height, width, _ = g.shape
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    reach = [slice(i, i + stride * (n - 1) + 1, stride) for n in (height, width) for i in range(side)]
    copies = [padded[:, rows, columns] for rows in reach[:side] for columns in reach[side:]]
    patches = jnp.concatenate(copies, axis=-1).reshape(-1, side**2 * channels)
    dk = lax.dot_general(
        patches, g.reshape(-1, features), (((0,), (0,)), ((), ())), precision=lax_precision(precision),
        preferred_element_type=jnp.float32,
    ).reshape(kernel.shape)  # fmt: skip
    # Input stride * i + r gets output i + d times tap r + padding - stride * d: for each r in turn a
    # convolution of g, all of them in one whose channels are then spread over the pixels.
    reached = range(-((side - 1 - padding) // stride), (stride - 1 + padding) // stride + 1)
    zero = jnp.zeros((channels, features), kernel.dtype)

    def tap(d: int, e: int, r: int, q: int) -> jax.Array:
        i, j = r + padding - stride * d, q + padding - stride * e
        return kernel[i, j] if 0 <= i < side and 0 <= j < side else zero

    phases = range(stride)
    taps = jnp.stack([tap(d, e, r, q) for d in reached for e in reached for r in phases for q in phases])
    taps = taps.reshape(len(reached), len(reached), stride**2, channels, features).transpose(0, 1, 4, 2, 3)
    # Padded up to what all of x's rows and columns ask for; the rest of g, if any, is cut.
    rows, columns = (-(-n // stride) for n in x.shape[1:3])
    before, after = -reached[0], reached[-1]
    edges = ((0, 0, 0), (before, rows - height + after, 0), (before, columns - width + after, 0), (0, 0, 0))
    g = lax.pad(g, jnp.zeros((), g.dtype), edges)
    taps = taps.reshape(len(reached), len(reached), features, stride**2 * channels)
    y = lax_conv(g, taps, (1, 1), "VALID", precision)
    y = y.reshape(g.shape[0], rows, columns, stride, stride, channels).transpose(0, 1, 3, 2, 4, 5)
    dx = y.reshape(g.shape[0], rows * stride, columns * stride, channels)[:, : x.shape[1], : x.shape[2]]
    return dx, dk.astype(kernel.dtype)


_strided_in_loop.defvjp(_strided_forward, _strided_backward)


class Conv(nn.Module):
    """A convolution with zero padding and PyTorch's default initialisation.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel; odd unless `stride` or `padding` is given.
        dtype: compute type; the parameters are float32.
        form: see `conv2d` and `strided_conv2d`.
        precision: see `conv2d`.
        stride: distance of the positions that are computed.
        padding: zeros on each side; None keeps the size at stride 1: `(kernel_size - 1) // 2`.
        use_bias: add a bias to each output channel.
        spectral: divide the kernel by its largest singular value, see `spectral_normalise`; its vector is
            in the collection "spectral".
        weight_norm: give each output's kernel a length of its own, the parameter "scale" (Salimans and
            Kingma 2016).
        kernel_init: of the kernel; None is PyTorch's default.
        bias_init: of the bias; None is PyTorch's default.
    """

    features: int
    kernel_size: int = 3
    dtype: Any = jnp.float32
    form: str = "auto"
    precision: str = "default"
    stride: int = 1
    padding: int | None = None
    use_bias: bool = True
    spectral: bool = False
    weight_norm: bool = False
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', features]` in `dtype`; `train` moves the spectral vector on."""
        side, channels = self.kernel_size, x.shape[-1]
        init = torch_uniform(side**2 * channels)
        kernel = self.param("kernel", self.kernel_init or init, (side, side, channels, self.features))
        if self.spectral:
            kernel = SpectralNorm(name="spectral")(kernel, train)
        if self.weight_norm:
            lengths = jnp.sqrt(jnp.square(kernel).sum(axis=(0, 1, 2)) + 1e-24)
            # The length is at first the initial kernel's own.
            scale = self.param("scale", lambda key: lengths)
            kernel = kernel * (scale / lengths).reshape(1, 1, 1, -1)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.stride == 1 and self.padding is None:
            form = "auto" if self.form == "winograd" and side != 3 else self.form
            # Only shapes count then, and XLA's own form is traced in a fraction of the time.
            form = "direct" if self.is_initializing() else form
            y = conv2d(x, kernel, form=form, precision=self.precision)
        else:
            padding = (side - 1) // 2 if self.padding is None else self.padding
            y = strided_conv2d(
                x, kernel, stride=self.stride, padding=padding, form=self.form, precision=self.precision
            )
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init or init, (self.features,))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
