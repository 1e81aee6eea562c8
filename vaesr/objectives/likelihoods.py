"""What a decoder's outputs mean: negative log-likelihood of the data, the mean image, and samples."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from vaesr.distributions import Bernoulli, DiscretisedLogistic, DiscretisedNormal, LogisticMixture, Normal
from vaesr.distributions.log_mass import check_bins
from vaesr.losses import (
    bernoulli_nll,
    discretised_gaussian_nll,
    discretised_logistic_nll,
    gaussian_nll,
    logistic_mixture_nll,
)

_Pair = tuple[jax.Array, jax.Array]


class Likelihood(Protocol):
    """The distribution of the data given a decoder's outputs."""

    def nll(self, outputs: Any, x: jax.Array) -> jax.Array:
        """Compute the negative log-likelihood per example.

        Args:
            outputs: what the decoder returned.
            x: data `[B, ...]`.

        Returns:
            `[B]` nats, float32.
        """
        ...

    def mean(self, outputs: Any) -> jax.Array:
        """Give the mean of the data.

        Args:
            outputs: what the decoder returned.

        Returns:
            `[B, ...]` float32.
        """
        ...

    def sample(self, outputs: Any, keys: jax.Array) -> jax.Array:
        """Draw data, each example from its own key; no gradient is promised.

        Args:
            outputs: what the decoder returned.
            keys: random keys `[B]`, from `vaesr.distributions.example_keys`.

        Returns:
            `[B, ...]` float32.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BernoulliLikelihood:
    """Binary data; the decoder's outputs are logits `[B, ...]`."""

    def nll(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Nats `[B]` of zeros and ones (or grey values in [0, 1]) of the logits' shape."""
        return bernoulli_nll(outputs, x)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the probability of a one, in [0, 1]."""
        return Bernoulli(outputs).mean

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw zeros and ones."""
        return Bernoulli(outputs).sample_examples(keys)


@dataclasses.dataclass(frozen=True)
class GaussianLikelihood:
    """Real-valued data with a fixed standard deviation; the decoder's outputs are means `[B, ...]`.

    Attributes:
        scale: the standard deviation, above 0, in units of the data.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}.")

    def nll(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Nats `[B]` of a density (it can be negative) of data of the means' shape."""
        return gaussian_nll(outputs, x, log_scale=math.log(self.scale))

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the means themselves."""
        return jnp.asarray(outputs, jnp.float32)

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw real-valued data, not clipped."""
        return Normal(outputs, jnp.float32(2.0 * math.log(self.scale))).sample_examples(keys)


@dataclasses.dataclass(frozen=True)
class LearnedGaussianLikelihood:
    """Real-valued data with a learned scale; the decoder's outputs are `(mean, log_scale)`.

    `log_scale`, the logarithm of the standard deviation, is a scalar (one parameter for the whole model) or
    has the shape of the mean.
    """

    def nll(self, outputs: _Pair, x: jax.Array) -> jax.Array:
        """Nats `[B]` of a density (it can be negative) of data of the mean's shape."""
        mean, log_scale = outputs
        return gaussian_nll(mean, x, log_scale=log_scale)

    def mean(self, outputs: _Pair) -> jax.Array:
        """Give the mean."""
        return jnp.asarray(outputs[0], jnp.float32)

    def sample(self, outputs: _Pair, keys: jax.Array) -> jax.Array:
        """Draw real-valued data, not clipped."""
        mean, log_scale = outputs
        return Normal(mean, 2.0 * jnp.asarray(log_scale, jnp.float32)).sample_examples(keys)


# --- images as grey levels, whose bits per dimension compare with published figures -------------------------


class _PairLikelihood:
    """What the likelihoods share whose outputs are `(mean, log_scale)` and whose fields are knobs of both."""

    _distribution: ClassVar[Callable[..., Any]]
    _nll: ClassVar[Callable[..., jax.Array]]

    def nll(self, outputs: _Pair, x: jax.Array) -> jax.Array:
        """Nats `[B]`, at least 0, of images in [0, 1] of the mean's shape, rounded to the nearest level."""
        mean, log_scale = outputs
        return self._nll(mean, log_scale, x, **vars(self))

    def mean(self, outputs: _Pair) -> jax.Array:
        """Give the mean image, in [0, 1], but for the rounding and clipping of its noise."""
        return self._distribution(*outputs).mean_image

    def sample(self, outputs: _Pair, keys: jax.Array) -> jax.Array:
        """Draw images: levels in [0, 1]."""
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

    They are those of `vaesr.distributions.LogisticMixture`.

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
        """Nats `[B]`, at least 0, of images `[B, H, W, C]` in [0, 1], C 1 or 3, rounded to levels."""
        return logistic_mixture_nll(outputs, x, **dataclasses.asdict(self))

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the mean image `[B, H, W, C]`, in [0, 1], but for the rounding and clipping of its noise."""
        return LogisticMixture(outputs, **dataclasses.asdict(self)).mean_image

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw images of levels in [0, 1]: a component per pixel, then red, green and blue in turn."""
        return LogisticMixture(outputs, **dataclasses.asdict(self)).sample_examples(keys)
