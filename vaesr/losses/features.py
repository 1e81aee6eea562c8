"""Losses on the features of an image network: content (perceptual) and style (Gram matrices).

`features` and `targets` are what `network(image)` gives for two image batches, one array a layer. Compute the
targets once and stop their gradient: they are constants of the training.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from vaesr.losses.pixel import l1_loss

Array = jax.Array
Distance = Callable[[Array, Array], Array]


def content_loss(
    features: Sequence[Array],
    targets: Sequence[Array],
    *,
    weights: Sequence[float] = (1.0,),
    distance: Distance = l1_loss,
) -> Array:
    """The weighted sum over layers of a distance between features.

    SRGAN: `mse_loss` of VGG19's relu5_4 (VGG54) or relu2_2 (VGG22) with weight 1 / 12.75². ESRGAN: `l1_loss`
    of conv5_4, before the ReLU, with weight 1.

    Args:
        features: of the prediction, `[B, h, w, c]` for each layer.
        targets: of the target, the same shapes.
        weights: one a layer.
        distance: `(features, targets) -> [B]`, such as `l1_loss` or `mse_loss`.

    Returns:
        float32 `[B]`.

    Raises:
        ValueError: if the numbers of layers and weights or two shapes differ.

    Source: Johnson et al. 2016, equation 2; Ledig et al. 2017 (SRGAN), equation 5; Wang et al. 2018 (ESRGAN),
      section 3.3.
    """
    return _weighted(features, targets, weights, distance)


def style_loss(
    features: Sequence[Array],
    targets: Sequence[Array],
    *,
    weights: Sequence[float] = (1.0,),
    distance: Distance = l1_loss,
) -> Array:
    """The weighted sum over layers of a distance between Gram matrices.

    Args:
        features: of the prediction, `[B, h, w, c]` for each layer.
        targets: of the target, the same shapes.
        weights: one a layer.
        distance: `(gram, gram) -> [B]`, such as `l1_loss` or `mse_loss`.

    Returns:
        float32 `[B]`.

    Raises:
        ValueError: if the numbers of layers and weights or two shapes differ.

    Source: Gatys et al. 2016, equation 4; fastai's `FeatureLoss` has L1.
    """
    return _weighted([*map(gram_matrix, features)], [*map(gram_matrix, targets)], weights, distance)


def gram_matrix(features: Array) -> Array:
    """The mean product of every two channels of `[B, h, w, c]` over the image, divided by c: `[B, c, c]`.

    float32 and symmetric; a ValueError if the shape is another.

    Source: Johnson et al. 2016, equation 3: the sum over places by h w c.
    """
    if features.ndim != 4:
        raise ValueError(f"features has shape {features.shape}; expected [B, h, w, c].")
    batch, height, width, channels = features.shape
    maps = features.astype(jnp.float32).reshape(batch, height * width, channels)
    product = jnp.einsum("bnc,bnd->bcd", maps, maps, precision=jax.lax.Precision.HIGHEST)
    return product / (height * width * channels)


def _weighted(
    features: Sequence[Array], targets: Sequence[Array], weights: Sequence[float], distance: Distance
) -> Array:
    if not len(features) == len(targets) == len(weights) or not weights:
        raise ValueError(
            f"there are {len(features)} features, {len(targets)} targets and {len(weights)} weights; "
            "expected one of each a layer."
        )
    layers = zip(features, targets, weights, strict=True)
    parts = [weight * distance(ours, theirs) for ours, theirs, weight in layers]
    return functools.reduce(operator.add, parts)
