"""Priors over the weights of a network: independent Gaussians, and Gaussians of two scales."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.distributions.normal import Normal
from vaesr.distributions.weight_trees import Path, flatten_paths, unflatten_paths


class _IndependentWeights:
    """What both share: densities of all weights, from that of one leaf."""

    def _log_density(self, path: Path, leaf: jax.Array) -> jax.Array:
        """The log-density of the weights at a path, one by one."""
        raise NotImplementedError

    def log_densities(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Give the log-density of every weight.

        Args:
            params: nested dicts of float arrays.

        Returns:
            A tree of the same structure, nats, float32.

        Raises:
            ValueError: if the prior's mean or scale doesn't fit a leaf.
        """
        return unflatten_paths(
            {path: self._log_density(path, leaf) for path, leaf in flatten_paths(params).items()}
        )

    def log_prob(self, params: Mapping[str, Any]) -> jax.Array:
        """Give the log-density of all weights together.

        Args:
            params: nested dicts of float arrays.

        Returns:
            Nats, a float32 scalar.

        Raises:
            ValueError: as `log_densities`.
        """
        # Every leaf flat first, since XLA's CPU back end is slow at sums over several axes.
        leaves = jax.tree.leaves(self.log_densities(params))
        return sum((leaf.reshape(-1).sum() for leaf in leaves), start=jnp.zeros((), jnp.float32))


@dataclasses.dataclass(frozen=True)
class GaussianPrior(_IndependentWeights):
    """Independent Gaussian weights.

    Attributes:
        scale: standard deviation, above 0: a float, or a function of a leaf's path (a tuple of names such as
            `("Dense_0", "kernel")`) and its array that gives a scalar or the leaf's shape.
        mean: a float, or a tree like the parameters: pretrained weights give the prior of MOPED
            (Krishnan et al. 2020).
    """

    scale: float | Callable[[Path, jax.Array], Any] = 1.0
    mean: float | Mapping[str, Any] = 0.0

    def __post_init__(self) -> None:
        if not callable(self.scale) and not isinstance(self.scale, jax.core.Tracer) and not self.scale > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}.")

    def moments(self, path: Path, leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give the mean and the log standard deviation of a leaf's weights.

        Args:
            path: names from the root of the parameters.
            leaf: the weights there, or anything of their shape.

        Returns:
            Two float32 arrays of the leaf's shape.

        Raises:
            ValueError: if `mean` or `scale` doesn't fit the leaf, or `scale` is not positive.
        """
        mean: Any = self.mean
        if isinstance(mean, Mapping):
            for name in path:
                if not isinstance(mean, Mapping) or name not in mean:
                    raise ValueError(f"the prior's mean has no leaf {path}.")
                mean = mean[name]
        scale = self.scale(path, leaf) if callable(self.scale) else self.scale
        if not isinstance(scale, jax.core.Tracer) and not np.all(np.asarray(scale) > 0):
            raise ValueError(f"the prior's scale must be above 0, got {scale} for {path}.")
        mean, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32)
        for name, value in (("mean", mean), ("scale", scale)):
            if value.shape not in ((), jnp.shape(leaf)):
                raise ValueError(
                    f"the prior's {name} must be a scalar or have the shape {jnp.shape(leaf)} of {path}, "
                    f"got {value.shape}."
                )
        return jnp.broadcast_to(mean, jnp.shape(leaf)), jnp.broadcast_to(jnp.log(scale), jnp.shape(leaf))

    def _log_density(self, path: Path, leaf: jax.Array) -> jax.Array:
        mean, log_scale = self.moments(path, leaf)
        return Normal(mean, 2.0 * log_scale).log_prob(leaf)


@dataclasses.dataclass(frozen=True)
class ScaleMixturePrior(_IndependentWeights):
    """Independent weights from a mixture of two zero-mean Gaussians, one wide and one narrow.

    The log-densities and their gradients are finite far from 0 as well.

    Attributes:
        weight: share of the first Gaussian, in (0, 1).
        scale_1: standard deviation of the first, above 0.
        scale_2: standard deviation of the second, above 0. The paper tries shares of 1/4, 1/2 and 3/4,
            exp(-0), exp(-1), exp(-2) for the first and exp(-6), exp(-7), exp(-8) for the second.

    Source: Blundell et al. 2015, equation 7.
    """

    weight: float = 0.5
    scale_1: float = 1.0
    scale_2: float = math.exp(-6.0)

    def __post_init__(self) -> None:
        if not 0.0 < self.weight < 1.0:
            raise ValueError(
                f"weight must lie in (0, 1), got {self.weight}; for one Gaussian: GaussianPrior."
            )
        if not (self.scale_1 > 0 and self.scale_2 > 0):
            raise ValueError(f"scale_1 and scale_2 must be above 0, got {self.scale_1} and {self.scale_2}.")

    def _log_density(self, path: Path, leaf: jax.Array) -> jax.Array:
        def component(share: float, scale: float) -> jax.Array:
            zeros = jnp.zeros(jnp.shape(leaf), jnp.float32)
            log_var = jnp.float32(2.0 * math.log(scale))
            return math.log(share) + Normal(zeros, log_var).log_prob(leaf)

        first = component(self.weight, self.scale_1)
        return jnp.logaddexp(first, component(1.0 - self.weight, self.scale_2))
