"""The one shape every training objective has."""

from typing import Any, NamedTuple, Protocol

import jax

Params = dict[str, Any]
Batch = dict[str, jax.Array]


class Aux(NamedTuple):
    """What an objective returns beside its loss.

    Attributes:
        metrics: float32 scalars, the unit in the name (`kl_nats`, `psnr_db`).
        variables: the new value of everything gradients don't touch (batch statistics, codebooks).
        shared: what later players of the same step find in their batch under the same names, so that one
            forward pass serves several updates: arrays with a leading batch axis, or functions that
            `jax.vjp` gave. With accumulation each micro-batch has its own.
    """

    metrics: dict[str, jax.Array]
    variables: Any
    shared: dict[str, Any] = {}  # noqa: RUF012  (a default that nobody mutates)


class Objective(Protocol):
    """A pure function from parameters and a batch to a float32 scalar loss and an `Aux`.

    The batch holds `position` (int32 `[B]`): each example's index in the global batch. Randomness is
    drawn per example from `fold_in(key, position)`, so that the number of devices, `pmap` and gradient
    accumulation don't change the noise.
    """

    def __call__(
        self, params: Params, variables: Any, batch: Batch, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]: ...
