"""Objectives of variational autoencoders of one layer or many: the ELBO and the importance-weighted bound."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, doubly_reparameterised_bound, kl_standard_normal
from vaesr.losses import balanced_kl, free_bits, importance_weighted_bound, negative_elbo
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import (
    Aux,
    Batch,
    Objective,
    Params,
    collections,
    own_variables,
    replace_variables,
)
from vaesr.objectives.posterior import (
    Decode,
    Draw,
    Encode,
    draw_and_decode,
    draw_gaussian,
    encode_gaussian,
    gaussian_layer,
    merge_samples,
    path_log_ratio,
    read_batch,
    sampled_nll,
    standard_log_ratio,
    sum_latents,
)

_ACTIVE_NATS = 0.01  # a latent dimension counts as used above this mean KL


def elbo(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    draw: Draw | None = None,
    player: str = "vae",
    beta: float | Callable[[jax.Array], Any] = 1.0,
    samples: int = 1,
    free_bits_nats: float = 0.0,
    free_bits_groups: int | None = None,
    free_bits_over: str = "example",
    binarisation: str = "none",
    gradient: str = "pathwise",
    balance: Sequence[float] | None = None,
    axis_name: str | None = None,
) -> Objective:
    """Build the objective of a VAE: the negative ELBO, with an optional weight and floor on its KL.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, each `[B, latent...]`; with a `draw` any
            tree: what is computed once per example.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        draw: `draw(params[player], features, keys, indices) -> Draws` of a model with latents of its own
            kind, several layers of them for instance, see `Draws` and `Draw`; None is one Gaussian layer.
        player: the name of the parameters in `params`. Where `variables` has that name too, the callables
            get `{"params": params[player], **variables[player]}`.
        beta: weight of the KL, at least 0: a float, or a function of the step (an optax schedule) for a
            warm-up.
        samples: Monte Carlo samples of the posterior per example, at least 1.
        free_bits_nats: floor per KL term; 0 switches it off. Terms that a `draw` samples, for want of a
            closed form, are floored draw by draw, which is biased: use it with closed forms.
        free_bits_groups: number of equal groups of neighbouring KL terms that share a floor; None gives
            every term its own.
        free_bits_over: "example" or "batch", see `vaesr.losses.free_bits`.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.
        gradient: "pathwise", with the KL in closed form where there is one, or, for one Gaussian layer, "stl"
            ("sticking the landing"): the KL is sampled and the part of its gradient whose mean is zero left
            out, so that the noise vanishes where the posterior is exact. With "stl" the KL in the metrics is
            the sampled one.
        balance: G numbers to which the KL terms of groups are to be in proportion while `beta` is below 1,
            see `vaesr.losses.balanced_kl`; None weighs them alike.
        axis_name: of the devices under `pmap`, over all of which `balance` takes its means.

    Returns:
        An `Objective` that reads `batch["image"]` (float, [0, 1] for Bernoulli data) and
        `batch["position"]`. Its loss is in nats per example. Its metrics don't contain the weight and the
        floor: `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of a density, for Gaussian
        likelihoods), `active_dimensions`, `kl_per_active_dimension_nats` and `beta`.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source: Kingma and Welling 2014, equation 10; Burda et al. 2016, section 2 (several layers); Higgins et
      al. 2017 (beta); Kingma et al. 2016, equation 15 (free bits); Roeder, Wu and Duvenaud 2017, equation 8
      ("stl"); Vahdat and Kautz 2020, appendix A (`balance`).
    """
    _check_gradient(gradient, ("pathwise", "stl"), draw)
    _check_samples(samples)
    if not callable(beta) and beta < 0:
        raise ValueError(f"beta must be at least 0, got {beta}.")
    if free_bits_nats < 0:
        raise ValueError(f"free_bits_nats must be at least 0, got {free_bits_nats}.")
    if free_bits_groups is not None and free_bits_groups < 1:
        raise ValueError(f"free_bits_groups must be at least 1, got {free_bits_groups}.")
    if gradient == "stl" and free_bits_nats > 0:
        raise ValueError(
            f'free_bits_nats must be 0 with gradient "stl", got {free_bits_nats}: the KL is sampled there, '
            "and a floor under samples is a biased one."
        )
    if balance is not None and free_bits_nats > 0:
        raise ValueError(f"free_bits_nats must be 0 with a balance, got {free_bits_nats}.")
    sample = _sampler(encode, decode, likelihood, draw, samples=samples, path_only=gradient == "stl")

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = read_batch(batch, key, binarisation=binarisation)
        nll, _, kl_terms, own = sample(_weights(params, variables, player), images, keys)
        reconstruction = nll.mean(axis=0)

        kl = kl_terms.sum(axis=1)
        floored = kl
        if free_bits_nats > 0:
            groups = _grouped(kl_terms, free_bits_groups)
            floored = free_bits(groups, nats=free_bits_nats, over=free_bits_over)
        weight = jnp.asarray(beta(step) if callable(beta) else beta, jnp.float32)
        if balance is not None:
            balanced = balanced_kl(kl_terms, scales=balance, axis_name=axis_name)
            floored = jnp.where(weight < 1, balanced, floored)
        loss = negative_elbo(reconstruction, floored, beta=weight).mean()
        metrics = _bound_metrics(reconstruction, kl, -reconstruction - kl, images)
        metrics |= _activity(kl_terms) | {"beta": weight}
        return loss, Aux(metrics, replace_variables(variables, player, own))

    return objective


def iwae(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    draw: Draw | None = None,
    player: str = "vae",
    samples: int = 5,
    binarisation: str = "none",
    gradient: str = "pathwise",
) -> Objective:
    """Build the objective of an importance-weighted autoencoder: the negative K-sample bound.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, or features for `draw`, as for `elbo`.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        draw: `draw(params[player], features, keys, indices) -> Draws` of a model with several layers of
            latents; None is one Gaussian layer.
        player: the name of the parameters in `params`, as for `elbo`.
        samples: K, at least 1; with 1 it is the ELBO with a sampled KL.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.
        gradient: "pathwise" differentiates the bound as it is. The others are for one Gaussian layer: "dreg"
            has the same mean, and for the encoder a signal-to-noise ratio that rises with K instead of
            falling; "stl" leaves out the derivative of log q at a fixed z without replacing it: biased for K
            above 1; with 1 it is "dreg".

    Returns:
        An `Objective` that reads `batch["image"]` and `batch["position"]`. Its loss is in nats per example.
        Its metrics: `bound_nats`, `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of the
        bound), `active_dimensions`, `kl_per_active_dimension_nats` and `effective_samples`. With "stl" those
        of the KL are of the sampled one.

    Raises:
        ValueError: if `samples` is below 1 or `gradient` unknown or not for this model; when called, if
            shapes don't fit.

    Source: Burda, Grosse and Salakhutdinov 2016, equations 8 and 13; Tucker et al. 2019, equation 8 ("dreg");
      Roeder, Wu and Duvenaud 2017 ("stl").
    """
    _check_gradient(gradient, ("pathwise", "dreg", "stl"), draw)
    _check_samples(samples)
    sample = _sampler(encode, decode, likelihood, draw, samples=samples, path_only=gradient == "stl")

    def plain(params: Any, images: jax.Array, keys: jax.Array) -> _Bound:
        nll, log_ratio, kl, own = sample(params, images, keys)
        log_weights = (log_ratio - nll).T
        return _Bound(importance_weighted_bound(log_weights), log_weights, nll, kl, own)

    def doubly_reparameterised(params: Any, images: jax.Array, keys: jax.Array) -> _Bound:
        mean_q, log_var_q = encode_gaussian(encode, params, images)
        z, noise = draw_gaussian(mean_q, log_var_q, keys, jnp.arange(samples))

        def log_weight(z: jax.Array) -> jax.Array:
            log_ratio = sum_latents(path_log_ratio(z, noise, log_var_q))
            outputs = decode(params, merge_samples(z))
            return log_ratio - sampled_nll(likelihood, outputs, images, samples=samples)

        bound, log_weights = doubly_reparameterised_bound(log_weight, z)
        nll = sum_latents(standard_log_ratio(z, noise, log_var_q)) - log_weights
        kl = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(images.shape[0], -1)
        return _Bound(bound, log_weights.T, nll, kl, None)

    weigh = doubly_reparameterised if gradient == "dreg" else plain

    def objective(
        params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        images, keys = read_batch(batch, key, binarisation=binarisation)
        bound, log_weights, nll, kl_terms, own = weigh(_weights(params, variables, player), images, keys)
        normalised = jax.nn.softmax(log_weights, axis=1)
        metrics = _bound_metrics(nll.mean(axis=0), kl_terms.sum(axis=1), bound, images) | _activity(kl_terms)
        metrics["bound_nats"] = bound.mean()
        metrics["effective_samples"] = (1.0 / jnp.square(normalised).sum(axis=1)).mean()
        return -bound.mean(), Aux(metrics, replace_variables(variables, player, own))

    return objective


class _Bound(NamedTuple):
    """A batch's importance-weighted bound and what it is made of, in nats."""

    bound: jax.Array  # [B]
    log_weights: jax.Array  # [B, K], without gradient where the bound has its own
    nll: jax.Array  # -log p(x | z_k), [K, B]
    kl: jax.Array  # [B, G]
    variables: Any


def _sampler(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    draw: Draw | None,
    *,
    samples: int,
    path_only: bool,
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array, Any]]:
    """A function of parameters, images and keys: `-log p(x | z)` and log-ratio `[S, B]`, KL terms `[B, G]`
    and new variables."""
    if draw is None:
        encode, draw = gaussian_layer(encode, path_only=path_only)

    def sample(params: Any, images: jax.Array, keys: jax.Array) -> Any:
        features = encode(params, images)
        draws, nll = draw_and_decode(
            draw, decode, likelihood, params, features, images, keys, jnp.arange(samples)
        )
        return nll, draws.log_ratio, draws.kl.mean(axis=0), draws.variables

    return sample


def _weights(params: Params, variables: Any, player: str) -> Any:
    """What the model's callables take: the player's parameters, with its variables where it has some."""
    return collections(params, variables, player) if own_variables(variables, player) else params[player]


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


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")


def _check_gradient(gradient: str, known: tuple[str, ...], draw: Draw | None) -> None:
    """Refuse an unknown estimator, when the objective is built."""
    if gradient not in known:
        raise ValueError(f"gradient must be one of {', '.join(known)}, got {gradient!r}.")
    if draw is not None and gradient != "pathwise":
        raise ValueError(
            f'gradient must be "pathwise" with a draw of its own, got {gradient!r}: the others are of one '
            "Gaussian layer, draw=None."
        )
