"""A diagonal Gaussian over a network's weights, as a plain tree of parameters.

A posterior is a dict `{"mean": tree, "rho": tree}` that an optimizer updates and a checkpoint holds like any
other parameters. The standard deviation of a weight is `softplus(rho)`. A leaf that "rho" lacks is
deterministic, and so is a single weight whose rho is -inf (what `prune` leaves).
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.distributions.normal import Normal, kl_normal
from vaesr.distributions.priors import GaussianPrior, ScaleMixturePrior
from vaesr.distributions.weight_trees import Path, flatten_paths, unflatten_paths

Posterior = dict[str, Any]
"""`{"mean": tree, "rho": tree}`, nested dicts; "rho" may lack leaves."""


def mean_field(
    params: Mapping[str, Any],
    *,
    scale: float | Callable[[Path, jax.Array], Any] = 0.05,
    select: Callable[[Path, jax.Array], bool] | None = None,
) -> Posterior:
    """Put independent Gaussians around the weights of a network.

    Args:
        params: the network's parameters, nested dicts of float arrays; they become the means.
        scale: initial standard deviation, above 0: a float, or a function of a leaf's path (a tuple of names
            such as `("Dense_0", "kernel")`) and its array, e.g.
            `lambda path, leaf: 0.1 / leaf.shape[0] ** 0.5`; a scalar or the leaf's shape.
        select: says by path and array which leaves are random; all if absent.

    Returns:
        `{"mean": tree, "rho": tree}`, float32; "rho" has only the leaves that are random.

    Raises:
        ValueError: if a scale is not positive or doesn't fit its leaf, or a random leaf is not float.

    Source: Blundell et al. 2015, section 3.2 (`sigma = log(1 + exp(rho))`).
    """
    leaves = {path: jnp.asarray(leaf) for path, leaf in flatten_paths(params).items()}
    rho = {}
    for path, leaf in leaves.items():
        if select is not None and not select(path, leaf):
            continue
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"the leaf {path} is {leaf.dtype}; only float leaves can be random, deselect it."
            )
        sigma = scale(path, leaf) if callable(scale) else scale
        rho[path] = _inverse_softplus(path, sigma, leaf.shape)
    means = {
        path: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for path, leaf in leaves.items()
    }
    return {"mean": unflatten_paths(means), "rho": unflatten_paths(rho)}


def mean_field_scales(posterior: Posterior) -> dict[str, Any]:
    """Give the standard deviation of every weight.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.

    Returns:
        A tree like "mean", float32; 0 where a weight is deterministic.

    Raises:
        ValueError: if "rho" has a leaf that "mean" lacks, or of another shape.
    """
    means, rho = posterior_leaves(posterior)
    return unflatten_paths(
        {
            path: jax.nn.softplus(rho[path]) if path in rho else jnp.zeros(jnp.shape(leaf), jnp.float32)
            for path, leaf in means.items()
        }
    )


def mean_field_noise(posterior: Posterior, key: jax.Array) -> dict[str, Any]:
    """Draw what a weight sample adds to the means, `sigma * standard normal noise`.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.
        key: one random key.

    Returns:
        A tree like "rho", float32. The noise of a leaf depends on its path, not on its place in the tree.

    Raises:
        ValueError: if "rho" has a leaf that "mean" lacks, or of another shape.
    """
    _, rho = posterior_leaves(posterior)
    return unflatten_paths(
        {
            path: jax.nn.softplus(leaf) * jax.random.normal(path_key(key, path), leaf.shape, jnp.float32)
            for path, leaf in rho.items()
        }
    )


def sample_mean_field(posterior: Posterior, key: jax.Array) -> dict[str, Any]:
    """Draw the weights of a network; gradients flow to means and scales.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.
        key: one random key.

    Returns:
        Parameters like "mean", float32: `mean + softplus(rho) * noise`. The noise of a leaf depends on its
        path, not on its place in the tree.

    Raises:
        ValueError: if "rho" has a leaf that "mean" lacks, or of another shape.

    Source: Blundell et al. 2015, section 3.2.
    """
    noise = flatten_paths(mean_field_noise(posterior, key))
    return unflatten_paths(
        {
            path: leaf + noise[path] if path in noise else leaf
            for path, leaf in flatten_paths(posterior["mean"]).items()
        }
    )


def mean_field_kl(posterior: Posterior, prior: GaussianPrior) -> jax.Array:
    """Compute KL(posterior || prior) of all random weights in closed form.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.
        prior: a `GaussianPrior`.

    Returns:
        Nats, at least 0, a float32 scalar: the sum over the weights. Deterministic weights add nothing.

    Raises:
        ValueError: if the prior is not Gaussian, or doesn't fit the tree.

    Source: Graves 2011, equation 16; Kullback-Leibler divergence of two univariate normals.
    """
    if not isinstance(prior, GaussianPrior):
        raise ValueError(
            f"the KL to a {type(prior).__name__} has no closed form; estimate it with mean_field_log_ratio "
            f'(in objectives.bayesian: kl_form="sampled").'
        )
    means, rho = posterior_leaves(posterior)
    total = jnp.zeros((), jnp.float32)
    for path, leaf in rho.items():
        mean_p, log_scale_p = prior.moments(path, means[path])
        is_random, log_scale = _log_scale(leaf)
        kl = kl_normal(Normal(means[path], 2.0 * log_scale), Normal(mean_p, 2.0 * log_scale_p))
        total += jnp.where(is_random, kl, 0.0).reshape(-1).sum()
    return total


def mean_field_log_ratio(
    posterior: Posterior, params: Mapping[str, Any], prior: GaussianPrior | ScaleMixturePrior
) -> jax.Array:
    """Compute log q(w) - log p(w) of sampled weights, whose mean over samples is the KL.

    Args:
        posterior: `{"mean": tree, "rho": tree}`.
        params: weights w like "mean", from `sample_mean_field`. In float32 their noise has lost its digits
            where sigma is below about 1e-5 times the mean; the closed form keeps them.
        prior: an object with `log_densities(params)`.

    Returns:
        Nats, a float32 scalar. Deterministic weights add nothing.

    Raises:
        ValueError: if the trees don't fit together.

    Source: Blundell et al. 2015, equation 2.
    """
    means, rho = posterior_leaves(posterior)
    weights = flatten_paths(params)
    if weights.keys() != means.keys():
        odd = sorted(weights.keys() ^ means.keys())
        raise ValueError(f"params must have the leaves of the posterior's mean; these differ: {odd}.")
    log_p = flatten_paths(prior.log_densities(unflatten_paths({path: weights[path] for path in rho})))
    total = jnp.zeros((), jnp.float32)
    for path, leaf in rho.items():
        is_random, log_scale = _log_scale(leaf)
        log_q = Normal(means[path], 2.0 * log_scale).log_prob(weights[path])
        total += jnp.where(is_random, log_q - log_p[path], 0.0).reshape(-1).sum()
    return total


def path_key(key: jax.Array, path: Path) -> jax.Array:
    """Derive a key from a path in a tree of parameters, the same in every process.

    Args:
        key: one random key.
        path: names from the root.

    Returns:
        One random key.
    """
    return jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))


def posterior_leaves(posterior: Posterior) -> tuple[dict[Path, jax.Array], dict[Path, jax.Array]]:
    """Give means and rho by path, checked to fit, and what is random cast to float32.

    A ValueError if "rho" has a leaf that "mean" lacks, or of another shape.
    """
    if not isinstance(posterior, Mapping) or set(posterior) != {"mean", "rho"}:
        names = sorted(posterior) if isinstance(posterior, Mapping) else type(posterior).__name__
        raise ValueError(f'a posterior is a dict of "mean" and "rho" (see mean_field), got {names}.')
    means, rho = flatten_paths(posterior["mean"]), flatten_paths(posterior["rho"])
    for path, leaf in rho.items():
        if path not in means or jnp.shape(means[path]) != jnp.shape(leaf):
            shape = jnp.shape(means[path]) if path in means else "nothing"
            raise ValueError(f"rho has {path} of shape {jnp.shape(leaf)}, and mean has {shape} there.")
    rho = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in rho.items()}
    return {p: jnp.asarray(m, jnp.float32) if p in rho else m for p, m in means.items()}, rho


def _log_scale(rho: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which weights are random, and log softplus(rho) of those (of the others: anything finite)."""
    is_random = rho > -jnp.inf
    rho = jnp.where(is_random, rho, 0.0)
    # Below -15, log(log1p(exp(rho))) is rho to float32, and log1p(exp(rho)) soon is 0.
    small = rho < -15.0
    return is_random, jnp.where(small, rho, jnp.log(jax.nn.softplus(jnp.where(small, 0.0, rho))))


def _inverse_softplus(path: Path, sigma: Any, shape: tuple[int, ...]) -> jax.Array:
    """Give the rho of a leaf's standard deviations."""
    if not isinstance(sigma, jax.core.Tracer) and not np.all(np.asarray(sigma) > 0):
        raise ValueError(f"scale must be above 0, got {sigma} for {path}.")
    sigma = jnp.asarray(sigma, jnp.float32)
    if sigma.shape not in ((), shape):
        raise ValueError(f"scale must be a scalar or have the shape {shape} of {path}, got {sigma.shape}.")
    # log(exp(sigma) - 1), which neither overflows nor cancels.
    return jnp.broadcast_to(sigma + jnp.log(-jnp.expm1(-sigma)), shape)
