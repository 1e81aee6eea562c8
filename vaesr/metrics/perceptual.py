"""Distances between the features of image networks: LPIPS and DISTS."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.metrics import filters
from vaesr.metrics.protocol import RGB, Protocol, prepare_colours

Array = jax.Array
Features = Callable[..., Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LpipsNetwork:
    """What LPIPS has learned. A pytree: give it to compiled functions as an argument.

    Attributes:
        apply: `(params, images [B, H, W, 3] in [0, 1]) -> features`, each `[B, h, w, c]`.
        params: the trunk's.
        heads: the weight `[c]` of every channel, at least 0; one a feature.
    """

    apply: Features = dataclasses.field(metadata={"static": True})
    params: Any
    heads: tuple[ArrayLike, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistsNetwork:
    """What DISTS has learned. A pytree: give it to compiled functions as an argument.

    Attributes:
        apply: `(params, images [B, H, W, 3] in [0, 1]) -> features`, each `[B, h, w, c]`.
        params: the trunk's.
        alpha: weights of the texture terms, one array `[c]` for the image itself and one a feature.
        beta: weights of the structure terms, of the same shapes.
    """

    apply: Features = dataclasses.field(metadata={"static": True})
    params: Any
    alpha: tuple[ArrayLike, ...]
    beta: tuple[ArrayLike, ...]


def lpips(
    reference: ArrayLike, distorted: ArrayLike, *, network: LpipsNetwork, protocol: Protocol = RGB
) -> Array:
    """Returns the learned perceptual image patch similarity of each image: the lower, the better.

    Features of unit length at every point, squared differences weighted by channel and averaged over points,
    summed over layers (version 0.1, with linear heads). Images are in [0, 1], not in [-1, 1] as in the
    authors' package.

    Args:
        reference: `[B, H, W, C]` floating-point images of 1 or 3 channels in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        network: trunk and heads, for example of `vaesr.pretrained.load_lpips`.
        protocol: what is compared.

    Returns:
        `[B]` float32, at least 0; 0 for identical images, with a gradient of 0.

    Raises:
        TypeError: if an image is not floating point or the network is no `LpipsNetwork`.
        ValueError: if the shapes differ, are not `[B, H, W, 1 or 3]`, are too small for the trunk, or heads
            and features don't match.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
      equation 1.
    """
    return _lpips(*_images(reference, distorted, protocol, network, LpipsNetwork, "lpips"), network)


@jax.jit
def _lpips(x: Array, y: Array, network: LpipsNetwork) -> Array:
    features, others = (network.apply(network.params, image) for image in (x, y))
    if [f.shape[-1] for f in features] != [jnp.size(head) for head in network.heads]:
        raise ValueError(
            f"lpips: heads of {[jnp.size(head) for head in network.heads]} channels don't match features of "
            f"{[f.shape[-1] for f in features]}."
        )
    score = jnp.zeros(x.shape[0], jnp.float32)
    for one, other, head in zip(features, others, network.heads, strict=True):
        # A fused multiply and subtract leaves equal products apart by a rounding error.
        same = (one == other).all(axis=-1, keepdims=True)
        difference = jnp.where(same, 0.0, _unit(one) - _unit(other))
        apart = jnp.square(difference).mean(axis=(1, 2))
        score = score + (apart * jnp.reshape(jnp.asarray(head, jnp.float32), (1, -1))).sum(axis=-1)
    return score


def _unit(feature: Array) -> Array:
    """Features of length 1 at every point."""
    return feature / (filters.safe_sqrt(jnp.square(feature).sum(axis=-1, keepdims=True)) + 1e-10)


def dists(
    reference: ArrayLike, distorted: ArrayLike, *, network: DistsNetwork, protocol: Protocol = RGB
) -> Array:
    """Returns the deep image structure and texture similarity of each image: the lower, the better.

    Means of feature maps tell textures apart, covariances structure; both are compared as SSIM does. Images
    of another size than the authors' (shorter side 256) give other scores: resize them first to compare
    with published figures.

    Args:
        reference, distorted: `[B, H, W, C]` floating-point images of one shape, as for `lpips`.
        network: trunk and weights, for example of `vaesr.pretrained.load_dists`.
        protocol: what is compared.

    Returns:
        `[B]` float32, at least 0; 0 for identical images, with a gradient of 0.

    Raises:
        TypeError: if an image is not floating point or the network is no `DistsNetwork`.
        ValueError: as `lpips`, or if weights and features don't match.

    Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020,
      equations 3 to 5.
    """
    return _dists(*_images(reference, distorted, protocol, network, DistsNetwork, "dists"), network)


@jax.jit
def _dists(x: Array, y: Array, network: DistsNetwork) -> Array:
    features, others = ([image, *network.apply(network.params, image)] for image in (x, y))
    widths = [f.shape[-1] for f in features]
    if any([jnp.size(w) for w in weights] != widths for weights in (network.alpha, network.beta)):
        raise ValueError(f"dists: alpha and beta must hold weights of {widths} channels.")
    row = lambda w: jnp.reshape(jnp.asarray(w, jnp.float32), (1, -1))  # noqa: E731
    alpha, beta = ([row(w) for w in weights] for weights in (network.alpha, network.beta))
    total = sum(w.sum() for w in (*alpha, *beta))
    score = jnp.zeros(x.shape[0], jnp.float32)
    for one, other, texture, structure in zip(features, others, alpha, beta, strict=True):
        (mean_x, u), (mean_y, v) = _centred(one), _centred(other)
        # 1 - S written as one fraction: exactly 0 for identical images.
        apart = jnp.square(mean_x - mean_y) / (mean_x**2 + mean_y**2 + 1e-6)
        power = jnp.square(u).mean(axis=(1, 2)) + jnp.square(v).mean(axis=(1, 2))
        unlike = jnp.square(u - v).mean(axis=(1, 2)) / (power + 1e-6)
        score = score + (texture * apart + structure * unlike).sum(axis=-1)
    return score / total


def _centred(feature: Array) -> tuple[Array, Array]:
    """Mean `[B, C]` over points and what is left without it."""
    mean = feature.mean(axis=(1, 2))
    return mean, feature - mean[:, None, None]


def _images(
    reference: ArrayLike, distorted: ArrayLike, protocol: Protocol, network: Any, kind: type, function: str
) -> tuple[Array, Array]:
    """Both images as trunks take them, once the network is of the right kind."""
    if not isinstance(network, kind):
        raise TypeError(f"{function}: network must be {kind.__name__}, but was {type(network).__name__}.")
    x, y = prepare_colours(reference, distorted, protocol, function=function)
    return jnp.moveaxis(x, 1, -1), jnp.moveaxis(y, 1, -1)
