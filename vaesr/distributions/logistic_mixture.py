"""PixelCNN++'s mixture of discretised logistics: one mixture per pixel, green given red, blue given both."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions.casting import at_least_float32
from vaesr.distributions.discretised import to_grid, to_unit
from vaesr.distributions.keys import example_uniform
from vaesr.distributions.location_scale import check_keys
from vaesr.distributions.log_mass import check_bins, logistic_log_mass, to_level
from vaesr.distributions.logistic import logistic_noise


class _Components(NamedTuple):
    """The parts of the parameters of n pixels, pixels last: no loop over a short last axis, which is slow.

    Attributes:
        logits: `[M, n]`.
        means: `[C, M, n]`.
        log_scales: `[C, M, n]`, floored.
        coefficients: `[3, M, n]` in [-1, 1]: green on red, blue on red, blue on green; None for grey.
    """

    logits: jax.Array
    means: jax.Array
    log_scales: jax.Array
    coefficients: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogisticMixture:
    """A mixture of discretised logistics per pixel; a pytree of one array.

    The channels of a pixel share the mixture's component. Given it, the means of green and blue are linear
    in the channels before them. Parameters live on the paper's scale, on which the levels span [-1, 1].

    Attributes:
        parameters: `[B, ..., K]`. Grey images: K = 3M, the M mixture logits, M means and M log-scales. RGB:
            K = 10M, the M logits, then for red, green and blue in turn M means, M log-scales and M
            coefficients before their tanh (green on red, blue on red, blue on green): the layout of the
            authors' code.
        mixtures: M, the components of the mixture.
        bits: bits per channel, 1 to 16: the image has 2^bits levels.
        edges: "exact", or "nvae": see `DiscretisedLogistic`.
        min_log_scale: floor of the log-scales.
    """

    parameters: jax.Array
    reparameterised: ClassVar[bool] = False
    mixtures: int = dataclasses.field(default=10, metadata={"static": True})
    bits: int = dataclasses.field(default=8, metadata={"static": True})
    edges: str = dataclasses.field(default="exact", metadata={"static": True})
    min_log_scale: float = dataclasses.field(default=-7.0, metadata={"static": True})

    @property
    def mean_image(self) -> jax.Array:
        """The mean of every pixel, `[B, ..., C]` in [0, 1], float32.

        Every channel's mean given the component and the means before it, clipped to the image's range: what
        is left out is the rounding to levels and the mass beyond the first and the last.
        """
        parts = self._split()
        weights = jax.nn.softmax(parts.logits, axis=0)
        means: list[jax.Array] = []
        for channel in range(len(parts.means)):
            means.append(jnp.clip(_conditional_mean(parts, channel, means), -1.0, 1.0))
        mean = jnp.stack([(weights * mean).sum(axis=0) for mean in means], axis=1)
        return to_unit(mean).reshape(*self.parameters.shape[:-1], -1)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Give the log-probability of every pixel.

        Args:
            value: images `[B, ..., C]` in [0, 1], C 1 or 3 as the parameters say; rounded to the nearest
                level.

        Returns:
            Nats, at most 0, `[B, ...]` without the channels, float32; not summed.

        Raises:
            ValueError: if shapes or knobs don't fit.

        Source: Salimans et al. 2017 (PixelCNN++), equations 1 to 3.
        """
        parts = self._split()
        channels, mixtures, pixels = parts.means.shape
        shape = self.parameters.shape[:-1]
        if jnp.shape(value) != (*shape, channels):
            raise ValueError(
                f"value must be {(*shape, channels)} for parameters {self.parameters.shape}, "
                f"got {jnp.shape(value)}."
            )
        levels = to_level(value, self.bits).reshape(pixels, channels).T
        levels = jnp.broadcast_to(levels[:, None], (channels, mixtures, pixels))
        x = levels * (2.0 / (2**self.bits - 1)) - 1.0
        means = jnp.stack([_conditional_mean(parts, channel, x) for channel in range(channels)])
        log_mass = logistic_log_mass(means, parts.log_scales, levels, bits=self.bits, edges=self.edges)
        log_weights = jax.nn.log_softmax(parts.logits, axis=0)
        return jax.nn.logsumexp(log_weights + log_mass.sum(axis=0), axis=0).reshape(shape)

    def sample_examples(self, keys: jax.Array, *, temperature: float = 1.0) -> jax.Array:
        """Draw images, each example from its own key; no gradient flows.

        Args:
            keys: random keys `[B]`, from `example_keys`.
            temperature: multiplies the scales and the noise that chooses the component; at least 0. At 0
                every pixel is the likeliest component's mean.

        Returns:
            Levels in [0, 1], `[B, ..., C]`, float32, with the probabilities of edges "exact".

        Raises:
            ValueError: if there is not one key per example or shapes and knobs don't fit.
        """
        parts = self._split()
        shape = self.parameters.shape[:-1]
        channels, mixtures, count = parts.means.shape
        check_keys(keys, self.parameters)
        fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
        uniform = jnp.clip(example_uniform(fold(keys, 0), (*shape[1:], mixtures)), 2.0**-24)
        gumbel = -jnp.log(-jnp.log(uniform.reshape(count, mixtures).T))
        parts = _take(parts, jnp.argmax(parts.logits + temperature * gumbel, axis=0))
        noise = logistic_noise(example_uniform(fold(keys, 1), (*shape[1:], channels)))
        noise = noise.reshape(count, channels).T[:, None]
        pixels: list[jax.Array] = []
        for channel in range(channels):
            scale = temperature * jnp.exp(parts.log_scales[channel])
            x = _conditional_mean(parts, channel, pixels) + scale * noise[channel]
            # The next channels are conditioned on the level, as in `log_prob`, not on what was rounded.
            pixels.append(2.0 * to_grid(x, self.bits) - 1.0)
        return to_grid(jnp.concatenate(pixels).T, self.bits).reshape(*shape, channels)

    def _split(self) -> _Components:
        """Check the parameters and take them apart."""
        check_bins(self.bits, self.edges)
        m, channels = self.mixtures, mixture_channels(self.parameters.shape, self.mixtures)
        parameters = at_least_float32(self.parameters).reshape(-1, self.parameters.shape[-1]).T
        logits, rest = parameters[:m], parameters[m:].reshape(channels, -1, m, parameters.shape[1])
        log_scales = jnp.maximum(rest[:, 1], self.min_log_scale)
        return _Components(logits, rest[:, 0], log_scales, jnp.tanh(rest[:, 2]) if channels == 3 else None)


def mixture_channels(shape: tuple[int, ...], mixtures: int) -> int:
    """Tell grey from RGB images by the parameters' shape `[B, ..., K]`: 1 if K = 3M, 3 if K = 10M.

    M is `mixtures`; a ValueError for any other K.
    """
    if mixtures < 1:
        raise ValueError(f"mixtures must be at least 1, got {mixtures}.")
    if len(shape) < 2 or shape[-1] not in (3 * mixtures, 10 * mixtures):
        raise ValueError(
            f"parameters of {mixtures} mixtures must be [B, ..., {3 * mixtures}] for grey or "
            f"[B, ..., {10 * mixtures}] for RGB images, got {shape}."
        )
    return 1 if shape[-1] == 3 * mixtures else 3


def _conditional_mean(parts: _Components, channel: int, before: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """The means `[M, n]` of one channel given the ones before it, `[M, n]` each on [-1, 1]."""
    mean = parts.means[channel]
    if parts.coefficients is None or channel == 0:
        return mean
    if channel == 1:
        return mean + parts.coefficients[0] * before[0]
    return mean + parts.coefficients[1] * before[0] + parts.coefficients[2] * before[1]


def _take(parts: _Components, chosen: jax.Array) -> _Components:
    """Keep the chosen component of every pixel; the axis M becomes 1."""

    def take(array: jax.Array) -> jax.Array:
        return jnp.take_along_axis(array, chosen[None, None], axis=1)

    coefficients = None if parts.coefficients is None else take(parts.coefficients)
    return _Components(parts.logits, take(parts.means), take(parts.log_scales), coefficients)
