"""What a decoder's outputs mean: negative log-likelihood of the data, the mean image, and samples."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vaesr.distributions import Bernoulli, Normal
from vaesr.losses import bernoulli_nll, gaussian_nll

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
        """Compute the negative log-likelihood per example.

        Args:
            outputs: logits `[B, ...]`.
            x: zeros and ones (or grey values in [0, 1]), same shape.

        Returns:
            `[B]` nats, float32.
        """
        return bernoulli_nll(outputs, x)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the probability of a one.

        Args:
            outputs: logits `[B, ...]`.

        Returns:
            `[B, ...]` in [0, 1], float32.
        """
        return jax.nn.sigmoid(jnp.asarray(outputs, jnp.float32))

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw binary data.

        Args:
            outputs: logits `[B, ...]`.
            keys: random keys `[B]`.

        Returns:
            Zeros and ones `[B, ...]`, float32.
        """
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
        """Compute the negative log-likelihood per example.

        Args:
            outputs: means `[B, ...]`.
            x: data, same shape.

        Returns:
            `[B]` nats of a density (it can be negative), float32.
        """
        return gaussian_nll(outputs, x, log_scale=math.log(self.scale))

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Give the mean.

        Args:
            outputs: means `[B, ...]`.

        Returns:
            The same, float32.
        """
        return jnp.asarray(outputs, jnp.float32)

    def sample(self, outputs: jax.Array, keys: jax.Array) -> jax.Array:
        """Draw real-valued data.

        Args:
            outputs: means `[B, ...]`.
            keys: random keys `[B]`.

        Returns:
            `[B, ...]` float32, not clipped.
        """
        return Normal(outputs, jnp.float32(2.0 * math.log(self.scale))).sample_examples(keys)


@dataclasses.dataclass(frozen=True)
class LearnedGaussianLikelihood:
    """Real-valued data with a learned scale; the decoder's outputs are `(mean, log_scale)`.

    `log_scale`, the logarithm of the standard deviation, is a scalar (one parameter for the whole model) or
    has the shape of the mean.
    """

    def nll(self, outputs: _Pair, x: jax.Array) -> jax.Array:
        """Compute the negative log-likelihood per example.

        Args:
            outputs: `(mean, log_scale)`: `[B, ...]`, and a scalar or `[B, ...]`.
            x: data, the shape of `mean`.

        Returns:
            `[B]` nats of a density (it can be negative), float32.
        """
        mean, log_scale = outputs
        return gaussian_nll(mean, x, log_scale=log_scale)

    def mean(self, outputs: _Pair) -> jax.Array:
        """Give the mean.

        Args:
            outputs: `(mean, log_scale)`.

        Returns:
            `mean`, `[B, ...]`, float32.
        """
        return jnp.asarray(outputs[0], jnp.float32)

    def sample(self, outputs: _Pair, keys: jax.Array) -> jax.Array:
        """Draw real-valued data.

        Args:
            outputs: `(mean, log_scale)`.
            keys: random keys `[B]`.

        Returns:
            `[B, ...]` float32, not clipped.
        """
        mean, log_scale = outputs
        return Normal(mean, 2.0 * jnp.asarray(log_scale, jnp.float32)).sample_examples(keys)
