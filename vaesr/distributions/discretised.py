"""Distributions over the grey levels of images: a logistic or a normal, cut into bins.

Parameters live on the papers' scale, on which the levels span [-1, 1]; images live in [0, 1].
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_normal, example_uniform
from vaesr.distributions.location_scale import check_keys, check_value, of_one_shape
from vaesr.distributions.log_mass import check_bins, logistic_log_mass, normal_log_mass, to_level
from vaesr.distributions.logistic import logistic_noise


class _Discretised:
    """What both share; samples are rounded, so that every bin gets its own mass."""

    mean: jax.Array
    log_scale: jax.Array
    reparameterised: ClassVar[bool] = False
    bits: int
    edges: str = "exact"
    min_log_scale: float

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Standard noise of one key per example, each of `shape`, float32."""
        raise NotImplementedError

    def _mean_and_log_scale(self) -> tuple[jax.Array, jax.Array]:
        mean, log_scale = of_one_shape(self.mean, self.log_scale, "log_scale")
        return mean, jnp.maximum(log_scale, self.min_log_scale)

    def _log_mass(self, mean: jax.Array, log_scale: jax.Array, level: jax.Array) -> jax.Array:
        """Log-probabilities of levels, in nats."""
        raise NotImplementedError

    @property
    def mean_image(self) -> jax.Array:
        """The mean before it is cut into bins, clipped to the image's range: in [0, 1], float32."""
        return to_unit(jnp.asarray(self.mean, jnp.float32))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Give the log-probability of every element.

        Args:
            value: images in [0, 1], the shape of `mean`; rounded to the nearest level.

        Returns:
            Nats, at most 0, the shape of `mean`, float32; not summed.

        Raises:
            ValueError: if shapes or knobs don't fit.
        """
        check_bins(self.bits, self.edges)
        mean, log_scale = self._mean_and_log_scale()
        check_value(value, mean)
        return self._log_mass(mean, log_scale, to_level(value, self.bits))

    def sample_examples(self, keys: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw images, each example from its own key; no gradient flows.

        Args:
            keys: random keys `[B]`, from `example_keys`; `mean` is `[B, ...]`.
            temperature: multiplies the scale; at least 0.

        Returns:
            Levels in [0, 1], the shape of `mean`, float32, with the probabilities of edges "exact".

        Raises:
            ValueError: if there is not one key per example or a knob is out of range.
        """
        check_bins(self.bits, self.edges)
        mean, log_scale = self._mean_and_log_scale()
        check_keys(keys, mean)
        noise = self._example_noise(keys, mean.shape[1:])
        return to_grid(mean + temperature * jnp.exp(log_scale) * noise, self.bits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscretisedLogistic(_Discretised):
    """Independent discretised logistics, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape; -1 is black and 1 is white.
        log_scale: natural logarithms of the scales, a scalar or the shape of `mean`.
        bits: bits per channel, 1 to 16: the image has 2^bits levels.
        edges: "exact", or "nvae": NVAE's 8-bit images give the last two levels the open tail, so that the
            masses sum to more than 1; for comparing with its published figures.
        min_log_scale: floor of `log_scale`.

    Source: Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2.
    """

    mean: jax.Array
    log_scale: jax.Array
    bits: int = dataclasses.field(default=8, metadata={"static": True})
    edges: str = dataclasses.field(default="exact", metadata={"static": True})
    min_log_scale: float = dataclasses.field(default=-7.0, metadata={"static": True})

    def _log_mass(self, mean: jax.Array, log_scale: jax.Array, level: jax.Array) -> jax.Array:
        return logistic_log_mass(mean, log_scale, level, bits=self.bits, edges=self.edges)

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return logistic_noise(example_uniform(keys, shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscretisedNormal(_Discretised):
    """Independent discretised normals, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape; -1 is black and 1 is white.
        log_scale: natural logarithms of the standard deviations, a scalar or the shape of `mean`.
        bits: bits per channel, 1 to 16: the image has 2^bits levels.
        min_log_scale: floor of `log_scale`.

    Source: Ho et al. 2020, equation 13.
    """

    mean: jax.Array
    log_scale: jax.Array
    bits: int = dataclasses.field(default=8, metadata={"static": True})
    min_log_scale: float = dataclasses.field(default=-7.0, metadata={"static": True})

    def _log_mass(self, mean: jax.Array, log_scale: jax.Array, level: jax.Array) -> jax.Array:
        return normal_log_mass(mean, log_scale, level, bits=self.bits)

    @staticmethod
    def _example_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return example_normal(keys, shape)


def to_unit(x: jax.Array) -> jax.Array:
    """Map [-1, 1] to [0, 1] and clip."""
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)


def to_grid(x: jax.Array, bits: int) -> jax.Array:
    """Map [-1, 1] to the nearest grey level (from outside to the first or the last), float32 in [0, 1]."""
    return to_level(to_unit(x), bits) / (2**bits - 1)
