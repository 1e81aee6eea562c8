"""Image quality metrics as losses: 0 for equal images, finite gradients there and on constant patches.

RGB is compared channel by channel where the metric compares grey by default, so that colour is learned, too.
"""

import functools
import operator

import jax
import jax.numpy as jnp

from vaesr import metrics
from vaesr.metrics import RGB, DistsNetwork, LpipsNetwork, Protocol, filters

_SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0)


def ssim_loss(prediction: jax.Array, target: jax.Array, *, protocol: Protocol = RGB) -> jax.Array:
    """1 - SSIM.

    Args:
        prediction: `[B, H, W, C]` floating point in [0, `protocol.data_range`], at least 11 pixels a side.
        target: same shape and range.
        protocol: what is compared; one that quantises has no gradient.

    Returns:
        float32 `[B]` in [0, 2].

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ or the images are too small.

    Source: see `vaesr.metrics.ssim`.
    """
    return 1 - metrics.ssim(target, prediction, protocol=protocol)


def ms_ssim_loss(prediction: jax.Array, target: jax.Array, *, protocol: Protocol = RGB) -> jax.Array:
    """1 - MS-SSIM.

    Args:
        prediction: `[B, H, W, C]` floating point in [0, `protocol.data_range`], at least 161 pixels a side.
        target: same shape and range.
        protocol: what is compared; one that quantises has no gradient.

    Returns:
        float32 `[B]` in [0, 1].

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ or the images are too small (`ms_ssim_l1_loss` takes smaller ones).

    Source: see `vaesr.metrics.ms_ssim`.
    """
    return 1 - metrics.ms_ssim(target, prediction, protocol=protocol)


def lpips_loss(
    prediction: jax.Array, target: jax.Array, *, network: LpipsNetwork, protocol: Protocol = RGB
) -> jax.Array:
    """LPIPS.

    Args:
        prediction: `[B, H, W, C]` floating point in [0, `protocol.data_range`], 1 or 3 channels.
        target: same shape and range.
        network: for example of `vaesr.pretrained.load_lpips`; pass it as an argument through `jit`, or its
            weights become constants of the program. Its gradient is not wanted: don't differentiate by it.
        protocol: what is compared.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        TypeError: if an image is not floating point or the network is no `LpipsNetwork`.
        ValueError: if the shapes differ or the images are too small for the network.

    Source: see `vaesr.metrics.lpips`.
    """
    return metrics.lpips(target, prediction, network=network, protocol=protocol)


def dists_loss(
    prediction: jax.Array, target: jax.Array, *, network: DistsNetwork, protocol: Protocol = RGB
) -> jax.Array:
    """DISTS.

    Args:
        prediction: `[B, H, W, C]` floating point in [0, `protocol.data_range`], 1 or 3 channels.
        target: same shape and range.
        network: for example of `vaesr.pretrained.load_dists`; see `lpips_loss`.
        protocol: what is compared.

    Returns:
        float32 `[B]`, at least 0.

    Raises:
        TypeError: if an image is not floating point or the network is no `DistsNetwork`.
        ValueError: if the shapes differ or the images are too small for the network.

    Source: see `vaesr.metrics.dists`.
    """
    return metrics.dists(target, prediction, network=network, protocol=protocol)


def ms_ssim_l1_loss(prediction: jax.Array, target: jax.Array, *, alpha: float = 0.84) -> jax.Array:
    """A mix of multi-scale structural similarity and absolute error for image restoration.

    alpha (1 - l Πcs) + (1 - alpha) G|d|: contrast and structure under Gaussian windows of sigma 0.5, 1, 2, 4
    and 8 pixels at full resolution, luminance and the weight G of the absolute error under the widest. The
    windows are cut at 49 pixels, or at the patch: of one of 31x31, the paper's, they see the whole of it.

    Args:
        prediction: `[B, H, W, C]` floating point in [0, 1].
        target: same shape and range.
        alpha: share of the structural term, in [0, 1].

    Returns:
        float32 `[B]`, averaged over channels and over the positions where the windows lie inside.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or alpha is out of range.

    Source: Zhao, Gallo, Frosio and Kautz, "Loss Functions for Image Restoration with Neural Networks", 2017,
      equation 14; constants and windows of their code (K = 0.01 and 0.03, all exponents 1).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"ms_ssim_l1_loss: alpha must lie in [0, 1], got {alpha}.")
    x, y = metrics.protocol.prepare_maps(target, prediction, RGB, function="ms_ssim_l1_loss")
    lengths = [min(49, n - 1 + n % 2) for n in x.shape[-2:]]

    def blur(maps: jax.Array, sigma: float) -> jax.Array:
        return filters.separable(maps, *(filters.gaussian_taps(length, sigma) for length in lengths))

    # As in `metrics.ssim`: from each image's own mean, or float32 cancels in flat areas.
    origins = [jax.lax.stop_gradient(i.mean(axis=(-2, -1), keepdims=True)) for i in (x, y)]
    u, v = x - origins[0], y - origins[1]
    maps, terms = jnp.stack([u, v, u * u + v * v, u * v]), []
    for sigma in _SIGMAS:
        mean_u, mean_v, square, product = blur(maps, sigma)
        variances, covariance = square - mean_u**2 - mean_v**2, product - mean_u * mean_v
        terms.append((2 * covariance + 0.03**2) / (variances + 0.03**2))
    luminance = filters.similarity(mean_u + origins[0], mean_v + origins[1], 0.01**2)
    similar = luminance * functools.reduce(operator.mul, terms)
    absolute = blur(jnp.abs(x - y), _SIGMAS[-1])
    return (alpha * (1 - similar) + (1 - alpha) * absolute).mean(axis=(1, 2, 3))
