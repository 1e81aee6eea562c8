"""Likelihoods of images as grey levels, whose bits per dimension compare with published figures."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from vaesr.distributions import DiscretisedLogistic, DiscretisedNormal, LogisticMixture
from vaesr.distributions.log_mass import check_bins
from vaesr.losses import discretised_gaussian_nll, discretised_logistic_nll, logistic_mixture_nll

_Pair = tuple[jax.Array, jax.Array]


class _PairLikelihood:
    """What the likelihoods share whose outputs are `(mean, log_scale)` and whose fields are knobs of both."""

    _distribution: ClassVar[Callable[..., Any]]
    _nll: ClassVar[Callable[..., jax.Array]]

    def nll(self, outputs: _Pair, x: jax.Array) -> jax.Array:
        """Compute the negative log-likelihood per example.

        Args:
            outputs: `(mean, log_scale)`: `[B, ...]`, and a scalar or `[B, ...]`.
            x: images in [0, 1], the shape of `mean`; rounded to the nearest level.

        Returns:
            `[B]` nats, at least 0, float32.
        """
        mean, log_scale = outputs
        return self._nll(mean, log_scale, x, **vars(self))

    def mean(self, outputs: _Pair) -> jax.Array:
        """Give the mean image, but for the rounding and clipping of its noise.

        Args:
            outputs: `(mean, log_scale)`.

        Returns:
            `[B, ...]` in [0, 1], float32.
        """
        return self._distribution(*outputs).mean_image

    def sample(self, outputs: _Pair, keys: jax.Array) -> jax.Array:
        """Draw images.

        Args:
            outputs: `(mean, log_scale)`.
            keys: random keys `[B]`.

        Returns:
            Levels in [0, 1], `[B, ...]`, float32.
        """
        return self._distribution(*outputs, **vars(self)).sample_examples(keys)


@dataclasses.dataclass(frozen=True)
class DiscretisedLogisticLikelihood(_PairLikelihood):
    """Images of 2^bits grey levels; the decoder's outputs are `(mean, log_scale)` of logistics.

    Both lie on the papers' scale, -1 for black to 1 for white; `log_scale` is a scalar or has the shape of
    the mean.

    Attributes:
        bits: bits per channel, 1 to 16.
        edges: "exact", or "nvae" for comparing with NVAE's published figures.
        min_log_scale: floor of the log-scale.
    """

    bits: int = 8
    edges: str = "exact"
    min_log_scale: float = -7.0
    _distribution = DiscretisedLogistic
    _nll = staticmethod(discretised_logistic_nll)

    def __post_init__(self) -> None:
        check_bins(self.bits, self.edges)


@dataclasses.dataclass(frozen=True)
class DiscretisedGaussianLikelihood(_PairLikelihood):
    """Images of 2^bits grey levels; the decoder's outputs are `(mean, log_scale)` of Gaussians.

    Both lie on the papers' scale, -1 for black to 1 for white; `log_scale`, the logarithm of the standard
    deviation, is a scalar or has the shape of the mean.

    Attributes:
        bits: bits per channel, 1 to 16.
        min_log_scale: floor of the log-scale.
    """

    bits: int = 8
    min_log_scale: float = -7.0
    _distribution = DiscretisedNormal
    _nll = staticmethod(discretised_gaussian_nll)

    def __post_init__(self) -> None:
        check_bins(self.bits)


@dataclasses.dataclass(frozen=True)
class LogisticMixtureLikelihood:
    """Grey or RGB images of 2^bits levels; the outputs are PixelCNN++'s parameters `[B, H, W, K]`.

    Attributes:
        mixtures: components of the mixture, at least 1; K is 3 times that for grey, 10 times for RGB images.
        bits: bits per channel, 1 to 16.
        edges: "exact", or "nvae" for comparing with NVAE's published figures.
        min_log_scale: floor of the log-scales.
    """

    mixtures: int = 10
    bits: int = 8
    edges: str = "exact"
    min_log_scale: float = -7.0

    def __post_init__(self) -> None:
        check_bins(self.bits, self.edges)
        if self.mixtures < 1:
            raise ValueError(f"mixtures must be at least 1, got {self.mixtures}.")

    def nll(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Compute the negative log-likelihood per example.

        Args:
            outputs: parameters `[B, H, W, K]`, see `vaesr.distributions.LogisticMixture`.
            x: images `[B, H, W, C]` in [0, 1], C 1 or 3; rounded to the nearest level.

        Returns:
            `[B]` nats, at least 0, float32.
        """
        return logistic_mixture_nll(outputs, x, **dataclasses.asdict(self))

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the mean image, but for the rounding and clipping of its noise.

        Args:
            outputs: parameters `[B, H, W, K]`.

        Returns:
            `[B, H, W, C]` in [0, 1], float32.
        """
        return LogisticMixture(outputs, **dataclasses.asdict(self)).mean_image

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw images: a component per pixel, then red, green given red, and blue given both.

        Args:
            outputs: parameters `[B, H, W, K]`.
            keys: random keys `[B]`.

        Returns:
            Levels in [0, 1], `[B, H, W, C]`, float32.
        """
        return LogisticMixture(outputs, **dataclasses.asdict(self)).sample_examples(keys)
