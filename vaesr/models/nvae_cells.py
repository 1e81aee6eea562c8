"""The parts of NVAE (Vahdat and Kautz 2020): figure 3's cells, weight-normalised kernels, flow steps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from vaesr.layers import (
    BatchNormSwish,
    conv2d,
    depthwise_conv2d,
    global_mean,
    lax_precision,
    pointwise_conv2d,
    strided_conv2d,
    torch_uniform,
)

_RESIDUAL_SCALE = 0.1  # of every cell's branch
_LEAST_LENGTH = 1e-5  # of a kernel, in weight normalisation


def recomputed(cell: Any, remat: str) -> Any:
    """The cell's class, of which the backward pass computes anew what `remat` says."""
    if remat == "none":
        return cell
    keep = jax.checkpoint_policies.save_only_these_names("convolution", "statistics")
    return nn.remat(cell, static_argnums=(2,), policy=keep if remat == "norm" else None)


class _Cell(nn.Module, kw_only=True):
    """What cells have in common.

    Attributes:
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        axis_name: see `vaesr.layers.BatchNormSwish`.
        dtype: compute type.
    """

    form: str = "auto"
    precision: str = "default"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def _conv(self, features: int, side: int, **more: Any) -> Callable[[jax.Array], jax.Array]:
        kind = {"form": self.form, "precision": self.precision, "dtype": self.dtype}
        conv = WeightNormConv(features, side, **kind, **more)
        return lambda x: checkpoint_name(conv(x), "convolution")

    def _norm(self, name: str, *, swish: bool = True, repeats: int = 1) -> BatchNormSwish:
        axis_name, dtype = self.axis_name, self.dtype
        return BatchNormSwish(swish, axis_name=axis_name, dtype=dtype, repeats=repeats, name=name)


class EncoderCell(_Cell):
    """BN, Swish and a 3x3 convolution, twice, then squeeze-and-excitation (figure 3b).

    Attributes:
        features: output channels.
        down: halve the size.
    """

    features: int
    down: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`, or to half of the size."""
        y = self._norm("norm_0")(x, train)
        y = self._conv(self.features, 3, stride=2 if self.down else 1, name="conv_0")(y)
        y = self._conv(self.features, 3, name="conv_1")(self._norm("norm_1")(y, train))
        y = SqueezeExcite(self.precision, self.dtype, name="se")(y)
        if self.down:
            # Swish, then one pixel of every four to a quarter of the channels each.
            x = nn.swish(x)
            part = self.features // 4
            sizes = (part, part, part, self.features - 3 * part)
            corners = ((0, 0), (1, 1), (0, 1), (1, 0))
            x = jnp.concatenate(
                [
                    self._conv(size, 1, name=f"skip_{i}")(x[:, row::2, column::2])
                    for i, (size, (row, column)) in enumerate(zip(sizes, corners, strict=True))
                ],
                axis=-1,
            )
        return x + _RESIDUAL_SCALE * y


class DecoderCell(_Cell):
    """Widened, convolved channel by channel and narrowed, then squeeze-and-excitation (figure 3a).

    Attributes:
        features: output channels.
        expansion: how much wider it is inside than its input.
        up: double the size.
    """

    features: int
    expansion: int
    up: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H, W, features]`, or to double the size."""
        wide, enlarge = self.expansion * x.shape[-1], 2 if self.up else 1
        # The paper repeats the pixels first. Maps of single pixels and batch normalisation give the same on
        # the small map, a quarter of the work, and so does a 1x1 convolution before interpolation.
        repeats = enlarge**2
        y = self._norm("norm_0", swish=False, repeats=repeats)(x, train)
        y = self._conv(wide, 1, weight_norm=False, use_bias=False, name="expand")(y)
        y = self._norm("norm_1", repeats=repeats)(y, train)
        spread = {"depthwise": True, "enlarge": enlarge, "weight_norm": False, "use_bias": False}
        y = self._conv(wide, 5, **spread, name="spread")(y)
        y = self._norm("norm_2")(y, train)
        y = self._conv(self.features, 1, weight_norm=False, use_bias=False, name="project")(y)
        y = self._norm("norm_3", swish=False)(y, train)
        y = SqueezeExcite(self.precision, self.dtype, name="se")(y)
        if self.up:
            x = _upsample_bilinear(
                self._conv(self.features, 1, use_bias=False, name="skip")(x), self.precision
            )
        return x + _RESIDUAL_SCALE * y


class SqueezeExcite(nn.Module):
    """Each channel times a number that all channels' means decide (Hu et al. 2018).

    Attributes:
        precision: see `vaesr.layers.conv2d`.
        dtype: compute type.
    """

    precision: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to the same shape."""
        channels, precision = x.shape[-1], lax_precision(self.precision)
        hidden = max(channels // 16, 4)
        squeezed = global_mean(x)
        for features, activation in ((hidden, nn.relu), (channels, nn.sigmoid)):
            init = torch_uniform(squeezed.shape[-1])
            dense = nn.Dense(
                features, dtype=self.dtype, kernel_init=init, bias_init=init, precision=precision
            )
            squeezed = activation(dense(squeezed))
        return x * squeezed


class WeightNormConv(nn.Module):
    """A convolution that keeps the size, its kernel's direction and length learned apart, output by output.

    exp(g) w / (|w| + 1e-5), where g is the parameter "log_length".

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        stride: distance of the positions that are computed.
        use_bias: add a bias to each output channel.
        weight_norm: whether there is a length; without, the kernel is what it is.
        depthwise: each channel has a kernel of its own.
        enlarge: how often each pixel is repeated along both axes before; only where it is depthwise.
        mask: "plain" or "mirrored", in a `FlowStep`; it is applied before the length is taken.
        length: factor on the length that the first kernel has by itself.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    weight_norm: bool = True
    depthwise: bool = False
    enlarge: int = 1
    mask: str | None = None
    length: float = 1.0
    form: str = "auto"
    precision: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[B, H, W, C]` to `[B, H', W', features]` in `dtype`."""
        if self.enlarge > 1 and not self.depthwise:
            raise ValueError(f"enlarge must be 1 where depthwise is False, got {self.enlarge}.")
        side, inputs = self.kernel_size, 1 if self.depthwise else x.shape[-1]
        init = torch_uniform(side**2 * inputs)
        own = {"kernel": self.param("kernel", init, (side, side, inputs, self.features))}
        if self.mask is not None:
            own["kernel"] = own["kernel"] * _mask(str(self.name), own["kernel"].shape, self.mask == _MIRRORED)
        if self.weight_norm:
            own["log_length"] = self.param(
                "log_length", lambda _: jnp.log(self.length * (_lengths(own["kernel"]) + 0.01))
            )
        x, kernel = x.astype(self.dtype), _normalised(own).astype(self.dtype)
        fields = {"form": self.form, "precision": self.precision}
        if self.depthwise:
            y = depthwise_conv2d(x, kernel, enlarge=self.enlarge, precision=self.precision)
        elif side == 1:
            y = pointwise_conv2d(x, kernel, precision=self.precision)
        elif self.stride > 1:
            y = strided_conv2d(x, kernel, stride=self.stride, padding=side // 2, **fields)
        else:
            y = conv2d(x, kernel, **({**fields, "form": "direct"} if self.is_initializing() else fields))
        if not self.use_bias:
            return y
        bias = self.param("bias", init, (self.features,))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def _lengths(kernel: jax.Array) -> jax.Array:
    """Of each output's kernel `[F]`; where all of it is zero its derivative is, too."""
    return jnp.sqrt(jnp.maximum(jnp.square(kernel).sum(axis=(0, 1, 2)), 1e-30))


def _normalised(own: Mapping[str, jax.Array]) -> jax.Array:
    """The kernel that a convolution multiplies with, of its parameters; masked already."""
    kernel = own["kernel"]
    if "log_length" not in own:
        return kernel
    factor = jnp.exp(own["log_length"]) / (_lengths(kernel) + _LEAST_LENGTH)
    return kernel * factor.reshape(1, 1, 1, -1)


def _upsample_bilinear(x: jax.Array, precision: str) -> jax.Array:
    """Double the size between the corners' centres (PyTorch's `align_corners`)."""
    for axis in (1, 2):
        side = x.shape[axis]
        at = np.arange(2 * side) * ((side - 1) / max(2 * side - 1, 1))
        weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(side)[None]))
        taps = jnp.asarray(weights, x.dtype)
        enlarged = jnp.tensordot(taps, x, ((1,), (axis,)), precision=lax_precision(precision))
        x = jnp.moveaxis(enlarged, 0, axis)
    return x


# --- flow steps --------------------------------------------------------------------------------------------


class FlowStep(nn.Module):
    """z - mu(z), where mu of a latent sees those before it alone: of the rows above, left of it, and channels
    before its own. The Jacobian is triangular with a diagonal of ones.

    Attributes:
        features: channels of z.
        mirrored: rows below and columns on the right take the place of those above and on the left.
        form: see `vaesr.layers.conv2d`.
        precision: see `vaesr.layers.conv2d`.
        dtype: compute type.
    """

    features: int
    mirrored: bool
    form: str = "auto"
    precision: str = "default"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Map `[N, h, w, features]` to the same shape and type."""
        common = {"form": self.form, "precision": self.precision, "dtype": self.dtype}
        mirrored = _MIRRORED if self.mirrored else _PLAIN
        wide = 6 * self.features
        h = WeightNormConv(wide, 3, mask=mirrored, use_bias=False, name="widen", **common)(z)
        h = nn.elu(h)
        h = WeightNormConv(wide, 5, mask=mirrored, depthwise=True, use_bias=False, name="spread", **common)(h)
        h = nn.elu(nn.elu(h))  # twice, as in the authors' code
        mu = WeightNormConv(self.features, 1, mask=mirrored, length=0.1, name="narrow", **common)(h)
        return z - mu.astype(z.dtype)


_PLAIN, _MIRRORED = "plain", "mirrored"


def _mask(name: str, shape: tuple[int, ...], mirrored: bool) -> np.ndarray:
    """What of the kernel of a `FlowStep`'s convolution there is: zeros and ones `[K, K, C, F]`."""
    side, _, inputs, outputs = shape
    mask = np.zeros(shape, np.float32)
    centre = side // 2
    mask[:centre] = mask[centre, :centre] = 1
    if name == "widen":  # outputs in blocks, one for each channel of z
        allowed = np.arange(inputs)[:, None] < np.arange(outputs)[None] // (outputs // inputs)
    elif name == "spread":
        allowed = np.ones((inputs, outputs), bool)
    else:
        allowed = np.arange(inputs)[:, None] // (inputs // outputs) <= np.arange(outputs)[None]
    mask[centre, centre] = allowed
    return mask[::-1, ::-1] if mirrored else mask


# --- what regularisation asks for --------------------------------------------------------------------------


def _modules(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every module with parameters of its own, by its path."""
    if any(not isinstance(value, Mapping) for value in params.values()):
        yield path, params
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _modules(value, (*path, name))


def kernels(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Give the kernels that the convolutions multiply with.

    Args:
        params: a network's parameters.

    Returns:
        `[K, K, C, F]` each (C is 1 where every channel has its own), masked and normalised, by the path with
        slashes between.
    """
    found = {}
    for path, own in _modules(params):
        if "kernel" not in own or jnp.ndim(own["kernel"]) != 4:  # of dense layers in squeeze-and-excitation
            continue
        step = path[-2] if len(path) > 1 else ""
        if step.startswith("transforms_"):
            mirrored = bool(int(step.rpartition("_")[2]) % 2)
            own = {**own, "kernel": own["kernel"] * _mask(path[-1], own["kernel"].shape, mirrored)}
        found["/".join(path)] = _normalised(own)
    return found


def norm_scales(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Give the scales of the batch normalisations.

    Args:
        params: a network's parameters.

    Returns:
        `[C]` each, by the path with slashes between.
    """
    return {"/".join(path): own["scale"] for path, own in _modules(params) if "scale" in own}
