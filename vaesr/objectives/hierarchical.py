"""The ELBO and the importance-weighted bound of models with any number of stochastic layers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.losses import free_bits, iwae_bound, negative_elbo
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import Draw, EncodeFeatures, draw_checked, read_batch, sampled_nll

_ACTIVE_NATS = 0.01  # a latent dimension counts as used above this mean KL


class Weighed(NamedTuple):
    """A batch's importance-weighted bound and what it is made of, in nats.

    Attributes:
        bound: `[B]`; only its gradient is used.
        log_weights: `[B, K]`.
        nll: `-log p(x | z_k)`, `[K, B]`.
        kl: `[B, G]`, one term per latent or group.
    """

    bound: jax.Array
    log_weights: jax.Array
    nll: jax.Array
    kl: jax.Array


Weigh = Callable[[Any, jax.Array, jax.Array], Weighed]
"""`weigh(params, images [B, ...], keys [B]) -> Weighed`."""


def hierarchical_elbo(
    encode: EncodeFeatures,
    draw: Draw,
    likelihood: Likelihood,
    *,
    player: str = "vae",
    beta: float | Callable[[jax.Array], Any] = 1.0,
    samples: int = 1,
    free_bits_nats: float = 0.0,
    free_bits_groups: int | None = None,
    free_bits_over: str = "example",
    binarisation: str = "none",
) -> Objective:
    """Build the objective of a VAE with several stochastic layers: the negative ELBO.

    `elbo` is this function for one layer.

    Args:
        encode: `encode(params[player], x) -> features`, any tree: what is computed once per example.
        draw: `draw(params[player], features, keys, indices) -> Draws`: samples of all latents with what the
            decoder makes of them, see `Draws` and `Draw`.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        player: the name of the parameters in `params`.
        beta: weight of the KL, at least 0: a float, or a function of the step (an optax schedule) for a
            warm-up.
        samples: Monte Carlo samples of the posterior per example, at least 1.
        free_bits_nats: floor per KL term; 0 switches it off. Terms that `draw` samples, for want of a closed
            form, are floored draw by draw, which is biased: use it with closed forms.
        free_bits_groups: number of equal groups of neighbouring KL terms that share a floor; None gives
            every term its own.
        free_bits_over: "example" or "batch", see `vaesr.losses.free_bits`.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.

    Returns:
        An `Objective` that reads `batch["image"]` (float, [0, 1] for Bernoulli data) and
        `batch["position"]`. Its loss is in nats per example; its metrics are those of `elbo`.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source:
        Kingma and Welling 2014, equation 10; Burda et al. 2016, section 2 (several layers).
    """
    _check_knobs(samples, beta, free_bits_nats, free_bits_groups)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = read_batch(batch, key, binarisation=binarisation)
        features = encode(params[player], images)
        draws = draw_checked(draw, params[player], features, keys, jnp.arange(samples))
        reconstruction = sampled_nll(likelihood, draws.outputs, images, samples=samples).mean(axis=0)

        kl_terms = draws.kl.mean(axis=0)
        kl = kl_terms.sum(axis=1)
        floored = kl
        if free_bits_nats > 0:
            groups = _grouped(kl_terms, free_bits_groups)
            floored = free_bits(groups, nats=free_bits_nats, over=free_bits_over)
        weight = jnp.asarray(beta(step) if callable(beta) else beta, jnp.float32)
        loss = negative_elbo(reconstruction, floored, beta=weight).mean()
        metrics = _bound_metrics(reconstruction, kl, -reconstruction - kl, images)
        return loss, Aux(metrics | _activity(kl_terms) | {"beta": weight}, variables)

    return objective


def hierarchical_iwae(
    encode: EncodeFeatures,
    draw: Draw,
    likelihood: Likelihood,
    *,
    player: str = "vae",
    samples: int = 5,
    binarisation: str = "none",
) -> Objective:
    """Build the objective of an importance-weighted autoencoder with several stochastic layers.

    `iwae` is this function for one layer. The gradient is the pathwise one.

    Args:
        encode: `encode(params[player], x) -> features`, any tree: what is computed once per example.
        draw: `draw(params[player], features, keys, indices) -> Draws`: samples of all latents with what the
            decoder makes of them, see `Draws` and `Draw`.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        player: the name of the parameters in `params`.
        samples: K, at least 1; with 1 it is the ELBO with a sampled KL.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.

    Returns:
        An `Objective` that reads `batch["image"]` and `batch["position"]`. Its loss is in nats per example;
        its metrics are those of `iwae`.

    Raises:
        ValueError: if `samples` is below 1; when called, if shapes don't fit.

    Source:
        Burda, Grosse and Salakhutdinov 2016, equations 8 and 13.
    """
    _check_knobs(samples, 1.0, 0.0, None)

    def weigh(params: Any, images: jax.Array, keys: jax.Array) -> Weighed:
        draws = draw_checked(draw, params, encode(params, images), keys, jnp.arange(samples))
        nll = sampled_nll(likelihood, draws.outputs, images, samples=samples)
        log_weights = (draws.log_ratio - nll).T
        return Weighed(iwae_bound(log_weights), log_weights, nll, draws.kl.mean(axis=0))

    return importance_objective(weigh, player=player, binarisation=binarisation)


def importance_objective(weigh: Weigh, *, player: str, binarisation: str) -> Objective:
    """Build an objective from a function that draws, weighs and bounds.

    Args:
        weigh: see `Weigh`.
        player: the name of the parameters in `params`.
        binarisation: see `binarise_batch`.

    Returns:
        The `Objective` that `iwae` describes.
    """

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = read_batch(batch, key, binarisation=binarisation)
        bound, log_weights, nll, kl_terms = weigh(params[player], images, keys)
        normalised = jax.nn.softmax(log_weights, axis=1)
        metrics = _bound_metrics(nll.mean(axis=0), kl_terms.sum(axis=1), bound, images) | _activity(kl_terms)
        metrics["bound_nats"] = bound.mean()
        metrics["effective_samples"] = (1.0 / jnp.square(normalised).sum(axis=1)).mean()
        return -bound.mean(), Aux(metrics, variables)

    return objective


def _grouped(kl_per_dimension: jax.Array, groups: int | None) -> jax.Array:
    """Sum `[B, D]` terms over equal groups of neighbouring dimensions, `[B, G]`."""
    if groups is None:
        return kl_per_dimension
    batch, dimensions = kl_per_dimension.shape
    if dimensions % groups:
        raise ValueError(f"free_bits_groups must divide the {dimensions} latent dimensions, got {groups}.")
    return kl_per_dimension.reshape(batch, groups, dimensions // groups).sum(axis=2)


def _bound_metrics(
    reconstruction: jax.Array, kl: jax.Array, bound: jax.Array, images: jax.Array
) -> dict[str, jax.Array]:
    """Average the terms of a bound over the batch."""
    dimensions = math.prod(images.shape[1:])
    return {
        "elbo_nats": (-reconstruction - kl).mean(),
        "kl_nats": kl.mean(),
        "reconstruction_nats": reconstruction.mean(),
        "bits_per_dim": -bound.mean() / (dimensions * math.log(2.0)),
    }


def _activity(kl_per_dimension: jax.Array) -> dict[str, jax.Array]:
    """Count the latent dimensions that carry information, and how much each carries."""
    mean_kl = kl_per_dimension.mean(axis=0)
    active = (mean_kl > _ACTIVE_NATS).astype(jnp.float32)
    count = active.sum()
    return {
        "active_dimensions": count,
        "kl_per_active_dimension_nats": (mean_kl * active).sum() / jnp.maximum(count, 1.0),
    }


def _check_knobs(samples: int, beta: Any, free_bits_nats: float, groups: int | None) -> None:
    """Refuse knobs that are out of range, when the objective is built."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if not callable(beta) and beta < 0:
        raise ValueError(f"beta must be at least 0, got {beta}.")
    if free_bits_nats < 0:
        raise ValueError(f"free_bits_nats must be at least 0, got {free_bits_nats}.")
    if groups is not None and groups < 1:
        raise ValueError(f"free_bits_groups must be at least 1, got {groups}.")
