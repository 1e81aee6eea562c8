"""Images as small models take them, and what a decoder's last layer gives for each likelihood."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from vaesr.distributions import Bernoulli, DiscretisedLogistic, DiscretisedNormal, LogisticMixture
from vaesr.distributions.casting import at_least_float32

PixelLikelihood = Literal[
    "bernoulli",
    "gaussian",
    "gaussian_learned",
    "discretised_logistic",
    "discretised_gaussian",
    "logistic_mixture",
]
LIKELIHOODS: tuple[PixelLikelihood, ...] = get_args(PixelLikelihood)
_PAIRS = ("discretised_logistic", "discretised_gaussian")
OF_LEVELS = (*_PAIRS, "logistic_mixture")
"""Likelihoods of images of so many bits."""


def check_images(images: jax.Array, shape: tuple[int, int, int]) -> None:
    """Refuse images that are not `[B, H, W, C]` of the model's `(H, W, C)`, with a ValueError."""
    if images.ndim != 4 or images.shape[1:] != tuple(shape):
        raise ValueError(f"images must be [B, *{tuple(shape)}], got {images.shape}.")


def output_channels(likelihood: str, colours: int, *, mixtures: int = 10) -> int:
    """Say how many numbers per pixel a decoder has to give: its last layer's channels.

    `likelihood` is one of `LIKELIHOODS`, `colours` are the images' channels, `mixtures` the components of
    "logistic_mixture". A ValueError if that is asked for other than grey or RGB images, or has no component.
    """
    if likelihood == "logistic_mixture":
        if colours not in (1, 3) or mixtures < 1:
            raise ValueError(
                f"a logistic mixture needs images of 1 or 3 channels and at least 1 component, got {colours} "
                f"and {mixtures}."
            )
        return mixtures * (3 if colours == 1 else 10)
    return 2 * colours if likelihood in _PAIRS else colours


def to_outputs(likelihood: str, pixels: jax.Array, *, log_scale: jax.Array | None = None) -> Any:
    """Shape the last layer's `[B, H, W, output_channels]` as the likelihood takes it, in at least float32.

    Logits, means or mixture parameters `[B, H, W, K]`, or `(mean, log_scale)`. Only "gaussian_learned" has a
    learned `log_scale`.
    """
    pixels = at_least_float32(pixels)
    if likelihood == "gaussian_learned":
        return pixels, log_scale
    if likelihood in _PAIRS:
        mean, log_scale = jnp.split(pixels, 2, axis=-1)
        return mean, log_scale
    return pixels


def mean_of_outputs(likelihood: str, outputs: Any, *, mixtures: int = 10) -> jax.Array:
    """Give the mean image `[B, H, W, C]` of what `to_outputs` gave.

    float32, in [0, 1] but for the two Gaussian densities; `mixtures` are the components of
    "logistic_mixture".
    """
    if likelihood == "bernoulli":
        return Bernoulli(outputs).mean
    if likelihood == "discretised_logistic":
        return DiscretisedLogistic(*outputs).mean_image
    if likelihood == "discretised_gaussian":
        return DiscretisedNormal(*outputs).mean_image
    if likelihood == "logistic_mixture":
        return LogisticMixture(outputs, mixtures=mixtures).mean_image
    return outputs[0] if likelihood == "gaussian_learned" else outputs
