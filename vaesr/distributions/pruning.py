"""Which weights of a posterior matter, and a network without the others."""

from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions.mean_field import Posterior, mean_field_scales, posterior_leaves
from vaesr.distributions.weight_trees import flatten_paths, unflatten_paths


def signal_to_noise(posterior: Posterior) -> dict[str, Any]:
    """Give |mean| / sigma of every weight, by which weights are pruned.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.

    Returns:
        A tree like "mean", float32: infinite where a weight is deterministic and not 0, 0 where it is 0.

    Raises:
        ValueError: if "rho" has a leaf that "mean" lacks, or of another shape.

    Source: Blundell et al. 2015, section 5.1.
    """

    def ratio(mean: jax.Array, scale: jax.Array) -> jax.Array:
        size = jnp.abs(jnp.asarray(mean, jnp.float32))
        fixed = jnp.where(size > 0.0, jnp.inf, 0.0)
        return jnp.where(scale > 0.0, size / jnp.where(scale > 0.0, scale, 1.0), fixed)

    means, scales = flatten_paths(posterior["mean"]), flatten_paths(mean_field_scales(posterior))
    return unflatten_paths({path: ratio(leaf, scales[path]) for path, leaf in means.items()})


def prune(posterior: Posterior, *, fraction: float | jax.Array) -> Posterior:
    """Set the weights of lowest signal-to-noise ratio to exactly 0, without variance.

    It is meant for a trained network: gradients would move the means away from 0 again.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.
        fraction: share of the random weights, counted over the whole network, in [0, 1]; may be traced.

    Returns:
        A posterior of the same structure, where `round(fraction * weights)` weights have mean 0 and rho -inf.
        Leaves that "rho" lacks are kept.

    Raises:
        ValueError: if `fraction` is a number outside [0, 1].

    Source: Blundell et al. 2015, section 5.1.
    """
    if isinstance(fraction, (int, float)) and not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}.")
    means, rho = posterior_leaves(posterior)
    if not rho:
        return posterior
    ratios = flatten_paths(signal_to_noise(posterior))
    ordered = jnp.argsort(jnp.concatenate([ratios[path].reshape(-1) for path in rho]))
    count = jnp.round(jnp.asarray(fraction, jnp.float32) * ordered.size)
    dropped = jnp.zeros(ordered.size, bool).at[ordered].set(jnp.arange(ordered.size) < count)
    new_means, new_rho, start = dict(means), {}, 0
    for path, leaf in rho.items():
        drop = dropped[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
        new_means[path] = jnp.where(drop, 0.0, means[path])
        new_rho[path] = jnp.where(drop, -jnp.inf, leaf)
    return {"mean": unflatten_paths(new_means), "rho": unflatten_paths(new_rho)}
