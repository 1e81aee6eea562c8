"""Objectives of variational autoencoders: the ELBO and the importance-weighted bound."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, example_keys, kl_standard_normal
from vaesr.losses import free_bits, iwae_bound, negative_elbo
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Aux, Batch, Objective, Params
from vaesr.objectives.posterior import (
    Decode,
    Encode,
    binarise,
    decode_nll,
    encode_checked,
    sample_posterior,
)

_ACTIVE_NATS = 0.01  # a latent dimension counts as used above this mean KL


def elbo(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    player: str = "vae",
    beta: float | Callable[[jax.Array], Any] = 1.0,
    samples: int = 1,
    free_bits_nats: float = 0.0,
    free_bits_groups: int | None = None,
    free_bits_over: str = "example",
    stochastic_binarisation: bool = False,
) -> Objective:
    """Build the objective of a VAE: the negative ELBO, with an optional weight and floor on its KL.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, each `[B, latent...]`.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        player: the name of the parameters in `params`.
        beta: weight of the KL, at least 0: a float, or a function of the step (an optax schedule) for a
            warm-up.
        samples: Monte Carlo samples of the posterior per example, at least 1.
        free_bits_nats: floor per KL term; 0 switches it off.
        free_bits_groups: number of equal groups of neighbouring latents that share a floor; None gives
            every latent its own.
        free_bits_over: "example" or "batch", see `vaesr.losses.free_bits`.
        stochastic_binarisation: draw binary images from the grey values, anew at every step.

    Returns:
        An `Objective` that reads `batch["image"]` (float, [0, 1] for Bernoulli data) and
        `batch["position"]`. Its loss is in nats per example. Its metrics don't contain the weight and the
        floor: `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of a density, for Gaussian
        likelihoods), `active_dimensions`, `kl_per_active_dimension_nats` and `beta`.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source:
        Kingma and Welling 2014, equation 10; Higgins et al. 2017 (beta); Kingma et al. 2016, equation 15
        (free bits).
    """
    _check_knobs(samples, beta, free_bits_nats, free_bits_groups)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = _inputs(batch, key, stochastic_binarisation)
        mean_q, log_var_q = encode_checked(encode, params[player], images)
        z, _ = sample_posterior(mean_q, log_var_q, keys, jnp.arange(samples))
        reconstruction = decode_nll(decode, likelihood, params[player], z, images).mean(axis=0)

        kl_per_dimension = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(images.shape[0], -1)
        kl = kl_per_dimension.sum(axis=1)
        floored = kl
        if free_bits_nats > 0:
            groups = _grouped(kl_per_dimension, free_bits_groups)
            floored = free_bits(groups, nats=free_bits_nats, over=free_bits_over)
        weight = jnp.asarray(beta(step) if callable(beta) else beta, jnp.float32)
        loss = negative_elbo(reconstruction, floored, beta=weight).mean()
        metrics = _bound_metrics(reconstruction, kl, -reconstruction - kl, images)
        return loss, Aux(metrics | _activity(kl_per_dimension) | {"beta": weight}, variables)

    return objective


def iwae(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    player: str = "vae",
    samples: int = 5,
    stochastic_binarisation: bool = False,
) -> Objective:
    """Build the objective of an importance-weighted autoencoder: the negative K-sample bound.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, each `[B, latent...]`.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        player: the name of the parameters in `params`.
        samples: K, at least 1; with 1 it is the ELBO with a sampled KL.
        stochastic_binarisation: draw binary images from the grey values, anew at every step.

    Returns:
        An `Objective` that reads `batch["image"]` and `batch["position"]`. Its loss is in nats per example.
        Its metrics: `bound_nats`, `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of the
        bound), `active_dimensions`, `kl_per_active_dimension_nats` and `effective_samples`.

    Raises:
        ValueError: if `samples` is below 1; when called, if shapes don't fit.

    Source:
        Burda, Grosse and Salakhutdinov 2016, equation 8.
    """
    _check_knobs(samples, 1.0, 0.0, None)

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = _inputs(batch, key, stochastic_binarisation)
        mean_q, log_var_q = encode_checked(encode, params[player], images)
        z, log_ratio = sample_posterior(mean_q, log_var_q, keys, jnp.arange(samples))
        nll = decode_nll(decode, likelihood, params[player], z, images)
        log_weights = (log_ratio - nll).T  # [B, K]
        bound = iwae_bound(log_weights)

        normalised = jax.nn.softmax(log_weights, axis=1)
        kl_per_dimension = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(images.shape[0], -1)
        kl = kl_per_dimension.sum(axis=1)
        metrics = _bound_metrics(nll.mean(axis=0), kl, bound, images) | _activity(kl_per_dimension)
        metrics["bound_nats"] = bound.mean()
        metrics["effective_samples"] = (1.0 / jnp.square(normalised).sum(axis=1)).mean()
        return -bound.mean(), Aux(metrics, variables)

    return objective


def _inputs(batch: Batch, key: jax.Array, stochastic: bool) -> tuple[jax.Array, jax.Array]:
    """Take the images and one key per example out of a batch."""
    if "image" not in batch:
        raise ValueError(f'the batch must hold "image" [B, ...], got the names {sorted(batch)}.')
    images = jnp.asarray(batch["image"])
    if images.ndim < 2 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f'batch["image"] must be float [B, ...] with values in [0, 1], got shape {images.shape} and '
            f"dtype {images.dtype}; divide 8-bit images by 255."
        )
    images = images.astype(jnp.float32)
    position = batch.get("position", jnp.arange(images.shape[0]))
    # Two independent streams, so that switching binarisation on leaves the latents' noise alone.
    if stochastic:
        images = binarise(images, example_keys(jax.random.fold_in(key, 1), position))
    return images, example_keys(jax.random.fold_in(key, 0), position)


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
