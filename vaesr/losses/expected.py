"""Losses averaged in closed form over random weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions import gaussian_moments, mean_field_scales

_Layer = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def expected_squared_error(
    posterior: Mapping[str, Any],
    inputs: jax.Array,
    targets: jax.Array,
    *,
    activation: Callable[[jax.Array], jax.Array] | str = "relu",
    hidden: str = "Dense_0",
    output: str = "Dense_1",
    nodes: int = 32,
) -> jax.Array:
    """Compute the expected squared error of a network with one hidden layer and Gaussian weights, exactly.

    With independent weights the hidden units are independent given the inputs, and so are the terms of a
    linear output: mean and variance of the output follow from the first two moments of the hidden units.

    Args:
        posterior: `{"mean": tree, "rho": tree}` over `{hidden: {"kernel", "bias"}, output: {...}}`, the
            parameters of two `nn.Dense`; biases may be missing.
        inputs: `[B, D]`.
        targets: `[B, K]`, float.
        activation: "relu", whose moments are closed forms, or any elementwise function, whose moments are
            taken by Gauss-Hermite quadrature.
        hidden: name of the hidden layer.
        output: name of the output layer.
        nodes: of the quadrature, at least 1; for smooth functions 32 are exact to float32.

    Returns:
        `[B]`, float32: `E[sum over K of (target - output)²]`, in the squared unit of the targets.

    Raises:
        ValueError: if the shapes don't fit or a layer is missing.

    Source: Hinton and van Camp 1993, section 5.
    """
    if jnp.ndim(inputs) != 2 or jnp.ndim(targets) != 2 or inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"inputs must be [B, D] and targets [B, K], got {jnp.shape(inputs)} and {jnp.shape(targets)}."
        )
    scales = mean_field_scales(dict(posterior))
    x, t = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32)
    first = _layer(posterior["mean"], scales, hidden, x.shape[1])
    second = _layer(posterior["mean"], scales, output, first[0].shape[1])
    if second[0].shape[1] != t.shape[1]:
        raise ValueError(f"the output layer has {second[0].shape[1]} units, and targets {t.shape}.")
    moments = gaussian_moments(*_linear(x, jnp.square(x), first), activation=activation, nodes=nodes)
    mean, variance = _linear(*moments, second)
    return (jnp.square(t - mean) + variance).sum(axis=1)


def _linear(mean: jax.Array, second: jax.Array, layer: _Layer) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of a linear layer, from mean `E[h]` and second moment `E[h²]` of what it reads."""
    kernel, kernel_variance, bias, bias_variance = layer
    # Var[Σ w h] = Σ σ² E[h²] + w̄² Var[h]
    # The difference of moments is 0 but for rounding where a unit hardly varies.
    unit_variance = jnp.maximum(second - jnp.square(mean), 0.0)
    variance = jnp.dot(second, kernel_variance, precision="highest") + jnp.dot(
        unit_variance, jnp.square(kernel), precision="highest"
    )
    return jnp.dot(mean, kernel, precision="highest") + bias, variance + bias_variance


def _layer(means: Mapping[str, Any], scales: Mapping[str, Any], name: str, width: int) -> _Layer:
    """Kernel and bias of a dense layer, each with its variance."""
    if name not in means or "kernel" not in means[name]:
        raise ValueError(f"the posterior has no dense layer {name!r}; it holds {sorted(means)}.")
    kernel = jnp.asarray(means[name]["kernel"], jnp.float32)
    if kernel.ndim != 2 or kernel.shape[0] != width:
        raise ValueError(f"the kernel of {name!r} has shape {kernel.shape}; expected ({width}, units).")
    zeros = jnp.zeros(kernel.shape[1], jnp.float32)
    bias = jnp.asarray(means[name].get("bias", zeros), jnp.float32)[None]
    bias_scale = scales[name].get("bias", zeros)[None]
    return kernel, jnp.square(scales[name]["kernel"]), bias, jnp.square(bias_scale)
