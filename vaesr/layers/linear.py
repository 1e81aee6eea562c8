"""What Bayesian forward passes know of linear layers: which are, and which axes their weights connect."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaesr.layers.conv import Conv

# Exact types, since a subclass may do something else.
_LINEAR = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvLocal, nn.ConvTranspose, Conv)


def is_linear(layer: nn.Module, x: jax.Array) -> bool:
    """Say whether every output of a layer is a sum of weights, each times one input, for a batch of inputs.

    That is, whether it is a linear layer that is known, and the first axis of `x` can be the batch.
    """
    if type(layer) not in _LINEAR or x.ndim < _least_axes(layer):
        return False
    if isinstance(layer, nn.DenseGeneral) and (layer.batch_dims or 0 in _general_axes(layer, x.ndim)):
        return False
    # Products of one's own may quantise. The circular transposed convolution folds its output, so that two
    # inputs may meet one weight.
    products = ("dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls")
    # A kernel that is divided by a function of itself is not linear in its parameters.
    if isinstance(layer, Conv) and (layer.spectral or layer.weight_norm):
        return False
    folds = isinstance(layer, nn.ConvTranspose) and layer.padding == "CIRCULAR"
    return not folds and all(getattr(layer, name, None) is None for name in products)


def channel_axes(layer: nn.Module, ndim_in: int, ndim_out: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the channel axes of a linear layer's input and of its output: those that its weights connect."""
    if isinstance(layer, nn.DenseGeneral):
        features = len(layer.features) if isinstance(layer.features, tuple | list) else 1
        return _general_axes(layer, ndim_in), tuple(range(ndim_out - features, ndim_out))
    return (ndim_in - 1,), (ndim_out - 1,)


def variance_layer(layer: Any) -> nn.Module:
    """Give the unbound layer that maps squared inputs, by squared scales of the weights, to variances."""
    fields: dict[str, Any] = {}
    if layer.dtype is not None and jnp.dtype(layer.dtype) == jnp.float16:
        fields["dtype"] = jnp.float32  # squares of small scales would be 0
    if isinstance(layer, nn.Conv | nn.ConvLocal | nn.ConvTranspose) and layer.mask is not None:
        fields["mask"] = jnp.square(layer.mask)
    if isinstance(layer, Conv):
        # Winograd's rounding errors would make variances of 0 positive or negative.
        fields["form"] = "additive"
    return layer.clone(parent=None, name=None, **fields)


def _general_axes(layer: nn.DenseGeneral, ndim: int) -> tuple[int, ...]:
    axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
    return tuple(axis % ndim for axis in axes)


def _least_axes(layer: Any) -> int:
    """How many axes an input with a batch axis has at least; without one, some layers take inputs too."""
    if isinstance(layer, Conv):
        return 4
    if isinstance(layer, nn.Dense | nn.DenseGeneral):
        return 2
    return 2 + (1 if isinstance(layer.kernel_size, int) else len(layer.kernel_size))
