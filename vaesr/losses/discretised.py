"""Negative log-likelihoods of images as grey levels: their probabilities sum to 1 over all images."""

import math

import jax
import jax.numpy as jnp

from vaesr.distributions import DiscretisedLogistic, DiscretisedNormal, LogisticMixture
from vaesr.losses.checks import flat_location_scale, float_targets


def discretised_logistic_nll(
    mean: jax.Array,
    log_scale: jax.Array | float,
    targets: jax.Array,
    *,
    bits: int = 8,
    edges: str = "exact",
    min_log_scale: float = -7.0,
) -> jax.Array:
    """Compute the negative log-likelihood of images under discretised logistics.

    Args:
        mean: means `[B, ...]` on the papers' scale: -1 is black and 1 is white.
        log_scale: natural logarithms of the scales in the same unit; a scalar, or the shape of `mean`.
        targets: images of the same shape in [0, 1], rounded to the nearest level `k / (2^bits - 1)`.
            To model fewer bits than the images have, quantise them first as the paper to compare with does.
        bits: bits per channel, 1 to 16.
        edges: "exact", or "nvae": in NVAE's 8-bit likelihood the last two levels both take the open tail,
            which flatters the figure; for comparing with its published ones.
        min_log_scale: floor of `log_scale`, below which its gradient is 0.

    Returns:
        `[B]` nats, at least 0, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes differ, there is no batch axis, the targets are integers or a knob is out
            of range.

    Source: Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2.
    """
    mean, log_scale, targets = flat_location_scale(mean, log_scale, targets)
    distribution = DiscretisedLogistic(mean, log_scale, bits, edges, min_log_scale)
    return -distribution.log_prob(targets).sum(axis=1)


def discretised_gaussian_nll(
    mean: jax.Array,
    log_scale: jax.Array | float,
    targets: jax.Array,
    *,
    bits: int = 8,
    min_log_scale: float = -7.0,
) -> jax.Array:
    """Compute the negative log-likelihood of images under discretised Gaussians.

    Args:
        mean: means `[B, ...]` on the papers' scale: -1 is black and 1 is white.
        log_scale: natural logarithms of the standard deviations in the same unit; a scalar, or the shape of
            `mean`.
        targets: images of the same shape in [0, 1], rounded to the nearest level `k / (2^bits - 1)`.
        bits: bits per channel, 1 to 16.
        min_log_scale: floor of `log_scale`, below which its gradient is 0.

    Returns:
        `[B]` nats, at least 0, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes differ, there is no batch axis, the targets are integers or a knob is out
            of range.

    Source: Ho et al. 2020, equation 13.
    """
    mean, log_scale, targets = flat_location_scale(mean, log_scale, targets)
    return -DiscretisedNormal(mean, log_scale, bits, min_log_scale).log_prob(targets).sum(axis=1)


def logistic_mixture_nll(
    parameters: jax.Array,
    targets: jax.Array,
    *,
    mixtures: int = 10,
    bits: int = 8,
    edges: str = "exact",
    min_log_scale: float = -7.0,
) -> jax.Array:
    """Compute the negative log-likelihood of images under PixelCNN++'s mixture of discretised logistics.

    Args:
        parameters: `[B, ..., K]`, K = 3 `mixtures` for grey and 10 `mixtures` for RGB images, in the order
            that `vaesr.distributions.LogisticMixture` describes.
        targets: images `[B, ..., C]` in [0, 1], C 1 or 3, rounded to the nearest level `k / (2^bits - 1)`.
        mixtures: components of the mixture, at least 1.
        bits: bits per channel, 1 to 16.
        edges: "exact" or "nvae", see `discretised_logistic_nll`.
        min_log_scale: floor of the log-scales, below which their gradient is 0.

    Returns:
        `[B]` nats, at least 0, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes don't fit together, the targets are integers or a knob is out of range.

    Source: Salimans et al. 2017 (PixelCNN++), equations 1 to 3.
    """
    float_targets(targets)
    parameters, targets = jnp.asarray(parameters), jnp.asarray(targets)
    if parameters.ndim < 2 or parameters.shape[:-1] != targets.shape[:-1]:
        raise ValueError(
            "parameters [B, ..., K] and targets [B, ..., C] must agree in all axes but the last, "
            f"got {parameters.shape} and {targets.shape}."
        )
    pixels = math.prod(parameters.shape[1:-1])
    parameters = parameters.reshape(parameters.shape[0], pixels, parameters.shape[-1])
    distribution = LogisticMixture(parameters, mixtures, bits, edges, min_log_scale)
    return -distribution.log_prob(targets.reshape(targets.shape[0], pixels, -1)).sum(axis=1)
