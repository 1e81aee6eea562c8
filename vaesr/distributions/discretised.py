"""Distributions over the grey levels of images: a logistic or a normal, cut into bins.

Parameters live on the papers' scale, on which the levels span [-1, 1]; images live in [0, 1].
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from vaesr.distributions.keys import example_normal, example_uniform
from vaesr.distributions.log_mass import check_bins, logistic_log_mass, normal_log_mass, to_level
from vaesr.distributions.logistic import check_keys, logistic_noise, mean_and_scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscretisedLogistic:
    """Independent discretised logistics, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape; -1 is black and 1 is white.
        log_scale: natural logarithms of the scales, a scalar or the shape of `mean`.
        bits: bits per channel, 1 to 16: the image has 2^bits levels.
        edges: "exact", or "nvae": NVAE's 8-bit images give the last two levels the open tail, so that the
            masses sum to more than 1; for comparing with its published figures.
        min_log_scale: floor of `log_scale`.
    """

    mean: jax.Array
    log_scale: jax.Array
    reparameterised: ClassVar[bool] = False
    bits: int = dataclasses.field(default=8, metadata={"static": True})
    edges: str = dataclasses.field(default="exact", metadata={"static": True})
    min_log_scale: float = dataclasses.field(default=-7.0, metadata={"static": True})

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

        Source:
            Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2.
        """
        check_bins(self.bits, self.edges)
        mean, log_scale, level = _arguments(self, value)
        return logistic_log_mass(mean, log_scale, level, bits=self.bits, edges=self.edges)

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
        return _draw(self, keys, lambda shape: logistic_noise(example_uniform(keys, shape)), temperature)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiscretisedNormal:
    """Independent discretised normals, one per element; a pytree of two arrays.

    Attributes:
        mean: the means, any shape; -1 is black and 1 is white.
        log_scale: natural logarithms of the standard deviations, a scalar or the shape of `mean`.
        bits: bits per channel, 1 to 16: the image has 2^bits levels.
        min_log_scale: floor of `log_scale`.
    """

    mean: jax.Array
    log_scale: jax.Array
    reparameterised: ClassVar[bool] = False
    bits: int = dataclasses.field(default=8, metadata={"static": True})
    min_log_scale: float = dataclasses.field(default=-7.0, metadata={"static": True})

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

        Source:
            Ho et al. 2020, equation 13.
        """
        check_bins(self.bits)
        mean, log_scale, level = _arguments(self, value)
        return normal_log_mass(mean, log_scale, level, bits=self.bits)

    def sample_examples(self, keys: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw images, each example from its own key; no gradient flows.

        Args:
            keys: random keys `[B]`, from `example_keys`; `mean` is `[B, ...]`.
            temperature: multiplies the standard deviation; at least 0.

        Returns:
            Levels in [0, 1], the shape of `mean`, float32.

        Raises:
            ValueError: if there is not one key per example or a knob is out of range.
        """
        check_bins(self.bits)
        return _draw(self, keys, lambda shape: example_normal(keys, shape), temperature)


def to_unit(x: jax.Array) -> jax.Array:
    """Map [-1, 1] to [0, 1] and clip.

    Args:
        x: any shape.

    Returns:
        Same shape.
    """
    return jnp.clip(0.5 * x + 0.5, 0.0, 1.0)


def to_grid(x: jax.Array, bits: int) -> jax.Array:
    """Map [-1, 1] to the nearest grey level, as a value in [0, 1].

    Args:
        x: any shape; values outside go to the first and the last level.
        bits: bits per channel.

    Returns:
        Same shape, float32.
    """
    return to_level(to_unit(x), bits) / (2**bits - 1)


def _arguments(
    self: DiscretisedLogistic | DiscretisedNormal, value: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, floored log-scale and grey level, of one shape."""
    mean, log_scale = mean_and_scale(self.mean, self.log_scale)
    if jnp.shape(value) != mean.shape:
        raise ValueError(f"value must have the shape of mean {mean.shape}, got {jnp.shape(value)}.")
    return mean, jnp.maximum(log_scale, self.min_log_scale), to_level(value, self.bits)


def _draw(
    self: DiscretisedLogistic | DiscretisedNormal,
    keys: jax.Array,
    noise: Callable[[tuple[int, ...]], jax.Array],
    temperature: float,
) -> jax.Array:
    """Draw continuous values and round them: every bin gets its own mass."""
    mean, log_scale = mean_and_scale(self.mean, self.log_scale)
    check_keys(keys, mean)
    scale = temperature * jnp.exp(jnp.maximum(log_scale, self.min_log_scale))
    return to_grid(mean + scale * noise(mean.shape[1:]), self.bits)
