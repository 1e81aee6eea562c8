"""Forward passes of deep ensembles and of dropout at prediction, shaped like those of Bayesian networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaesr.distributions import example_keys
from vaesr.layers.bayesian import BayesianForward


def ensemble_apply(module: nn.Module) -> BayesianForward:
    """Turn a network into an ensemble: one forward pass per member.

    Args:
        module: a Linen network.

    Returns:
        `forward(posterior, inputs, *, keys, position, variables=None, **apply_kwargs)` with outputs
        `[M, B, ...]`, float32, where every leaf of `posterior` has a leading axis of M members, such as
        `jax.vmap(module.init, (0, None))(keys, inputs)["params"]`. There is no noise: `keys` and `position`
        are there so that it is called like a Bayesian network's forward pass; but the outputs are M, however
        many keys are given (`objectives.predictive` wants M of them).

    Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
      Ensembles", 2017.
    """

    def forward(
        posterior: Any,
        inputs: Any,
        *,
        keys: jax.Array,
        position: jax.Array,
        variables: Any = None,
        **apply_kwargs: Any,
    ) -> Any:
        del keys, position

        def one(member: Any) -> Any:
            return module.apply({**(variables or {}), "params": member}, inputs, **apply_kwargs)

        return jax.tree.map(lambda x: x.astype(jnp.float32), jax.vmap(one)(posterior))

    return forward


def dropout_apply(module: nn.Module) -> BayesianForward:
    """Turn a network with dropout into one that drops units at prediction too (MC dropout).

    Args:
        module: a Linen network whose `__call__` takes `train=True` and then needs the random key "dropout",
            such as `vaesr.models.classifier.Classifier`.

    Returns:
        `forward(posterior, inputs, *, keys, position, variables=None, **apply_kwargs)` with outputs
        `[S, B, ...]`, float32: one pass per key. `posterior` is the network's parameters. Each
        example draws its own masks from its `position`, whatever batch it is in.

    Source: Gal and Ghahramani, "Dropout as a Bayesian Approximation", 2016, equation 6.
    """

    def forward(
        posterior: Any,
        inputs: Any,
        *,
        keys: jax.Array,
        position: jax.Array,
        variables: Any = None,
        **apply_kwargs: Any,
    ) -> Any:
        collections = {**(variables or {}), "params": posterior}

        def example(x: Any, key: jax.Array) -> Any:
            batch = jax.tree.map(lambda leaf: leaf[None], x)
            outputs = module.apply(collections, batch, train=True, rngs={"dropout": key}, **apply_kwargs)
            return jax.tree.map(lambda leaf: leaf[0].astype(jnp.float32), outputs)

        return jax.vmap(lambda key: jax.vmap(example)(inputs, example_keys(key, position)))(keys)

    return forward
