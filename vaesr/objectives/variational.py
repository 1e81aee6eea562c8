"""Objectives of variational autoencoders: the ELBO and the importance-weighted bound."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions import Normal, doubly_reparameterised_bound, kl_standard_normal
from vaesr.objectives.hierarchical import (
    Weighed,
    hierarchical_elbo,
    hierarchical_iwae,
    importance_objective,
)
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.objective import Objective
from vaesr.objectives.posterior import (
    Decode,
    Encode,
    decode_nll,
    draw_latents,
    encode_checked,
    one_layer,
    path_log_ratio,
    standard_log_ratio,
    sum_latents,
)


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
    binarisation: str = "none",
    gradient: str = "pathwise",
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
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.
        gradient: "pathwise", with the KL in closed form, or "stl" ("sticking the landing"): the KL is sampled
            and the part of its gradient whose mean is zero left out, so that the noise vanishes where the
            posterior is exact. With "stl" the KL in the metrics is the sampled one.

    Returns:
        An `Objective` that reads `batch["image"]` (float, [0, 1] for Bernoulli data) and
        `batch["position"]`. Its loss is in nats per example. Its metrics don't contain the weight and the
        floor: `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of a density, for Gaussian
        likelihoods), `active_dimensions`, `kl_per_active_dimension_nats` and `beta`.

    Raises:
        ValueError: if a knob is out of range; when called, if shapes don't fit.

    Source:
        Kingma and Welling 2014, equation 10; Higgins et al. 2017 (beta); Kingma et al. 2016, equation 15
        (free bits); Roeder, Wu and Duvenaud 2017, equation 8 ("stl").
    """
    _check_gradient(gradient, ("pathwise", "stl"))
    if gradient == "stl" and free_bits_nats > 0:
        raise ValueError(
            f'free_bits_nats must be 0 with gradient "stl", got {free_bits_nats}: the KL is sampled there, '
            "and a floor under samples is a biased one."
        )
    return hierarchical_elbo(
        *one_layer(encode, decode, path_only=gradient == "stl"),
        likelihood,
        player=player,
        beta=beta,
        samples=samples,
        free_bits_nats=free_bits_nats,
        free_bits_groups=free_bits_groups,
        free_bits_over=free_bits_over,
        binarisation=binarisation,
    )


def iwae(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    *,
    player: str = "vae",
    samples: int = 5,
    binarisation: str = "none",
    gradient: str = "pathwise",
) -> Objective:
    """Build the objective of an importance-weighted autoencoder: the negative K-sample bound.

    Args:
        encode: `encode(params[player], x) -> (mean_q, log_var_q)`, each `[B, latent...]`.
        decode: `decode(params[player], z) -> outputs` that the likelihood understands.
        likelihood: an object with `nll(outputs, x) -> [B]`.
        player: the name of the parameters in `params`.
        samples: K, at least 1; with 1 it is the ELBO with a sampled KL.
        binarisation: "none", "dynamic", "fixed" or "threshold", see `binarise_batch`.
        gradient: "pathwise" differentiates the bound as it is. "dreg" has the same mean, and for the encoder
            a signal-to-noise ratio that rises with K instead of falling. "stl" leaves out the derivative
            of log q at a fixed z without replacing it: biased for K above 1; with 1 it is "dreg".

    Returns:
        An `Objective` that reads `batch["image"]` and `batch["position"]`. Its loss is in nats per example.
        Its metrics: `bound_nats`, `elbo_nats`, `kl_nats`, `reconstruction_nats`, `bits_per_dim` (of the
        bound), `active_dimensions`, `kl_per_active_dimension_nats` and `effective_samples`. With "stl" those
        of the KL are of the sampled one.

    Raises:
        ValueError: if `samples` is below 1 or `gradient` unknown; when called, if shapes don't fit.

    Source:
        Burda, Grosse and Salakhutdinov 2016, equation 8; Tucker et al. 2019, equation 8 ("dreg");
        Roeder, Wu and Duvenaud 2017 ("stl").
    """
    _check_gradient(gradient, ("pathwise", "dreg", "stl"))
    if gradient != "dreg":
        return hierarchical_iwae(
            *one_layer(encode, decode, path_only=gradient == "stl"),
            likelihood,
            player=player,
            samples=samples,
            binarisation=binarisation,
        )
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")

    def weigh(params: Any, images: jax.Array, keys: jax.Array) -> Weighed:
        mean_q, log_var_q = encode_checked(encode, params, images)
        z, noise = draw_latents(mean_q, log_var_q, keys, jnp.arange(samples))

        def log_weight(z: jax.Array) -> jax.Array:
            log_ratio = sum_latents(path_log_ratio(z, noise, log_var_q))
            return log_ratio - decode_nll(decode, likelihood, params, z, images)

        bound, log_weights = doubly_reparameterised_bound(log_weight, z)
        nll = sum_latents(standard_log_ratio(z, noise, log_var_q)) - log_weights
        kl = kl_standard_normal(Normal(mean_q, log_var_q)).reshape(images.shape[0], -1)
        return Weighed(bound, log_weights.T, nll, kl)

    return importance_objective(weigh, player=player, binarisation=binarisation)


def _check_gradient(gradient: str, known: tuple[str, ...]) -> None:
    """Refuse an unknown estimator, when the objective is built."""
    if gradient not in known:
        raise ValueError(f"gradient must be one of {', '.join(known)}, got {gradient!r}.")
