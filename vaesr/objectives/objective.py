"""The one shape every training objective has, and how it reads and returns a player's variables."""

from collections.abc import Mapping
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


def own_variables(variables: Any, player: str) -> Any:
    """Give a player's tree in the variables of all players (or None), `{}` where it has none."""
    return variables.get(player, {}) if isinstance(variables, Mapping) else {}


def own_params(params: Params, player: str) -> Any:
    """Give a player's tree in the parameters of all players; a ValueError if there is no such player."""
    if player not in params:
        raise ValueError(f"params has no player {player!r}; it holds {sorted(params)}.")
    return params[player]


def collections(params: Params, variables: Any, player: str) -> dict[str, Any]:
    """Give what a Linen module's `apply` takes first: the player's parameters as "params", and its variables.

    Both arguments are of all players, the variables may be None; a ValueError if there is no such player.
    """
    return {"params": own_params(params, player), **own_variables(variables, player)}


def replace_variables(variables: Any, player: str, own: Any) -> Any:
    """Put a player's new variables in the place of the old ones, in a new dictionary of all players'.

    `variables` stay as they are where the player has none (they may be None) or `own` is None.
    """
    if own is None or not own_variables(variables, player):
        return variables
    return {**variables, player: own}
