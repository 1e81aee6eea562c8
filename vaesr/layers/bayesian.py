"""Bayesian forward passes of any Linen network: random weights, local reparameterisation and Flipout.

There are no Bayesian layers. The network is an ordinary one, its parameters are the means of a posterior
(`vaesr.distributions.mean_field`), and `bayesian_apply` intercepts the calls of its linear layers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.tracers import current_trace

from vaesr.distributions import (
    example_keys,
    example_normal,
    flatten_paths,
    mean_field_noise,
    mean_field_scales,
    path_key,
    unflatten_paths,
)
from vaesr.distributions.keys import keys_shape
from vaesr.layers.linear import channel_axes, is_linear, variance_layer

_HOW = ("local", "flipout", "weights")
# More draws than these run in a loop: unrolled ones cost compile time, and gradients of convolutions inside
# loops are slow on CPUs, where a training step seldom draws so often.
_UNROLLED = 8


class BayesianForward(Protocol):
    """A network with random weights, from `bayesian_apply`."""

    def __call__(
        self,
        posterior: Mapping[str, Any],
        inputs: Any,
        *,
        keys: jax.Array,
        position: jax.Array,
        variables: Mapping[str, Any] | None = None,
        **apply_kwargs: Any,
    ) -> Any: ...


def bayesian_apply(module: nn.Module, *, how: str = "local") -> BayesianForward:
    """Turn a network into one whose weights are drawn from a posterior.

    - `weights`: one draw of all weights per key, for the whole batch.
    - `local`: draws the outputs of linear layers in place of their weights, for each example on its own. The
      gradient varies much less. Each output has exactly the distribution that random weights give it, but the
      outputs of one layer at different places of an example (pixels of a convolution, elements of a sequence)
      get independent noise, where one draw of the weights would make them depend on each other.
    - `flipout`: one draw of the perturbation per key, whose signs differ from example to example. Exact for
      each example as a whole, and the gradient varies less than with `weights` in large batches.

    The last two know `nn.Dense`, `nn.DenseGeneral`, `nn.Conv`, `nn.ConvLocal`, `nn.ConvTranspose` and
    `vaesr.layers.Conv`, anywhere in the network, provided that the first axis of the layer's input is the
    batch. Everything else with random weights (scales of norms, embeddings, layers inside `nn.scan`,
    `nn.vmap`, `nn.remat` or `nn.WeightNorm`) uses its key's draw of the weights, which is right but keeps the
    variance.

    A layer called several times in one pass has the same weights each time. `flipout` and `weights` do that;
    `local` would draw independent noise and refuses.

    For the prediction of the mean weights: `module.apply({"params": posterior["mean"]}, inputs)`.

    Args:
        module: a Linen network.
        how: "local", "flipout" or "weights".

    Returns:
        `forward(posterior, inputs, *, keys, position, variables=None, **apply_kwargs)`: `posterior` from
        `mean_field`; `inputs` `[B, ...]`, the module's first argument; `keys` `[S]`, one per draw;
        `position` `[B]` int32, each example's index in the global batch; `variables`, other collections such
        as `batch_stats`, which are read only. The outputs are `[S, B, ...]`, float32. The noise of an example
        depends on the keys and on its position, not on the rest of the batch.

    Raises:
        ValueError: if `how` is unknown; when called, if shapes don't fit, or `local` meets a layer twice.

    Source: Kingma, Salimans and Welling 2015, equation 6 (local); Molchanov et al. 2017 (convolutions); Wen
      et al. 2018, equation 3 (flipout); Blundell et al. 2015, section 3.2 (weights).
    """
    if how not in _HOW:
        raise ValueError(f"how must be one of {', '.join(_HOW)}, got {how!r}.")

    def forward(
        posterior: Mapping[str, Any],
        inputs: Any,
        *,
        keys: jax.Array,
        position: jax.Array,
        variables: Mapping[str, Any] | None = None,
        **apply_kwargs: Any,
    ) -> Any:
        _check_call(inputs, keys, position, apply_kwargs)
        posterior = dict(posterior)
        noise = flatten_paths(jax.vmap(lambda key: mean_field_noise(posterior, key))(keys))
        means = flatten_paths(posterior["mean"])

        def one(key: jax.Array, noise: dict) -> Any:
            weights = {path: leaf + noise[path] if path in noise else leaf for path, leaf in means.items()}
            collections = {**(variables or {}), "params": unflatten_paths(weights)}
            if how == "weights":
                outputs = module.apply(collections, inputs, **apply_kwargs)
            else:
                layers = _RandomLayers(how, posterior, weights, noise, example_keys(key, position))
                with nn.intercept_methods(layers):
                    outputs = module.apply(collections, inputs, **apply_kwargs)
            return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)

        return _over_draws(one, keys, noise, in_turn=how != "local" and _has_convolutions(noise))

    return forward


def _over_draws(one: Callable[..., Any], keys: jax.Array, noise: dict, *, in_turn: bool) -> Any:
    """Run every draw of the weights, all at once or one after the other, and stack what comes out."""
    count = keys.shape[0]
    if count > 1 and not in_turn:
        return jax.vmap(one)(keys, noise)
    if count > _UNROLLED:
        return jax.lax.map(lambda draw: one(*draw), (keys, noise))
    outputs = [one(keys[i], {path: leaf[i] for path, leaf in noise.items()}) for i in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _has_convolutions(noise: dict) -> bool:
    """Whether some kernel looks like a convolution's, from its axes and that of the draws.

    `vmap` over the kernels of a convolution makes grouped convolutions, for which XLA's CPU back end takes
    ten times as long (LeNet, four draws with gradients: 454 ms, in place of 59 ms one after the other).
    """
    return any(leaf.ndim >= 4 for leaf in noise.values())


class _RandomLayers:
    """The interceptor of one forward pass: replaces the calls of linear layers that have random weights."""

    def __init__(
        self, how: str, posterior: dict[str, Any], weights: dict, noise: dict, keys: jax.Array
    ) -> None:
        self.perturb = _local if how == "local" else _flipout
        self.means = flatten_paths(posterior["mean"])
        self.scales = flatten_paths(mean_field_scales(posterior))
        self.weights, self.noise, self.keys = weights, noise, keys
        self.called: set[tuple[str, ...]] = set()
        self.trace = current_trace()
        self.inside = False  # the layer that is being replaced calls itself with other weights

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        x: Any = args[0] if len(args) == 1 and not kwargs else None
        if self.inside or context.method_name != "__call__" or not self._handles(layer, x):
            return call(*args, **kwargs)
        if self.perturb is _local and layer.path in self.called:
            raise ValueError(
                f'the layer {"/".join(layer.path)!r} is called twice in one pass; how="local" would draw '
                f'independent noise for one set of weights. Use how="flipout" or "weights".'
            )
        self.called.add(layer.path)
        names = [path[-1] for path in self.weights if path[:-1] == layer.path]
        mean, scale, noise = (
            {name: tree[(*layer.path, name)] for name in names if (*layer.path, name) in tree}
            for tree in (self.means, self.scales, self.noise)
        )
        self.inside = True
        try:
            keys = jax.vmap(lambda key: path_key(key, layer.path))(self.keys)
            return self.perturb(layer, x, mean, scale, noise, keys)
        finally:
            self.inside = False

    def _handles(self, layer: nn.Module, x: Any) -> bool:
        """Whether the layer is linear, works on the batch, and holds exactly the weights that were drawn."""
        if x is None or not is_linear(layer, x):
            return False
        own = [path for path in self.weights if path[:-1] == layer.path]
        if x.shape[0] != self.keys.shape[0] or not any(path in self.noise for path in own):
            return False
        # Inside nn.scan, nn.vmap and nn.remat JAX traces another function, whose layers may run many times;
        # nn.WeightNorm hands its layer other arrays than we passed in.
        same_arrays = all(layer.get_variable("params", path[-1]) is self.weights[path] for path in own)
        return same_arrays and current_trace() == self.trace


def _local(
    layer: nn.Module, x: jax.Array, mean: dict, scale: dict, noise: dict, keys: jax.Array
) -> jax.Array:
    """Draw a linear layer's output from its exact mean and variance."""
    del noise
    y = _call(layer, mean, x)
    # The output is a sum of weights times inputs, so the same layer maps squares to the variance; the bias's
    # own variance is added as the bias is.
    squares = {name: jnp.square(value) for name, value in scale.items()}
    variance = _call(variance_layer(layer), squares, jnp.square(x.astype(jnp.float32))).astype(jnp.float32)
    epsilon = example_normal(keys, y.shape[1:])
    return (y.astype(jnp.float32) + _sqrt(variance) * epsilon).astype(y.dtype)


def _flipout(
    layer: nn.Module, x: jax.Array, mean: dict, scale: dict, noise: dict, keys: jax.Array
) -> jax.Array:
    """Add the shared perturbation of a linear layer, with random signs on each example's channels."""
    del scale
    y = _call(layer, mean, x)
    axes_in, axes_out = channel_axes(layer, x.ndim, y.ndim)
    shape_in, shape_out = _channels(x, axes_in), _channels(y, axes_out)
    count = math.prod(shape_in)
    # One draw for both: every draw costs a quarter of a second of compile time on CPUs.
    signs = jax.vmap(lambda key: jax.random.rademacher(key, (count + math.prod(shape_out),), y.dtype))(keys)
    signs_in = signs[:, :count].reshape(-1, *shape_in).astype(x.dtype)
    signs_out = signs[:, count:].reshape(-1, *shape_out)
    perturbation = {name: noise.get(name, jnp.zeros_like(value)) for name, value in mean.items()}
    return y + signs_out * _call(layer, perturbation, x * signs_in)


def _call(layer: nn.Module, weights: dict, x: jax.Array) -> Any:
    return layer.clone(parent=None, name=None).apply({"params": weights}, x)


def _sqrt(variance: jax.Array) -> jax.Array:
    """Take the square root, with gradient 0 where the variance is 0."""
    positive = variance > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _channels(x: jax.Array, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one example's channels, with length 1 along every other axis."""
    return tuple(x.shape[axis] if axis in axes else 1 for axis in range(1, x.ndim))


def _check_call(inputs: Any, keys: jax.Array, position: jax.Array, apply_kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs, keys and positions that don't belong together."""
    if len(keys_shape(keys)) != 1 or keys_shape(keys)[0] < 1:
        raise ValueError(f"keys must be [S], one per draw of the weights, got shape {keys.shape}.")
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if sizes != {jnp.shape(position)}:
        raise ValueError(
            f"inputs must be [B, ...] and position [B], got {jax.tree.map(jnp.shape, inputs)} and "
            f"{jnp.shape(position)}."
        )
    if apply_kwargs.get("mutable"):
        raise ValueError("a Bayesian forward pass reads variables and can't change them; leave out mutable.")
