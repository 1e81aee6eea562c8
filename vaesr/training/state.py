"""The training state: one pytree that holds everything a step changes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


class Player(NamedTuple):
    """One subtree of the parameters, its objective and its optimizer.

    Attributes:
        objective: `(params, variables, batch, *, key, step) -> (loss, aux)`, differentiated with respect
            to `params[name]` alone.
        optimizer: any optax gradient transformation.
        turn: `variables -> bool` (a traced scalar), of the step's start: whether the player moves in this
            step. None: in every step. A player that does not move computes nothing, its parameters, its
            optimizer's state and the variables stay what they are, and its metrics are NaN. One more metric,
            `moved`, is 1 or 0.
        rate: `variables -> factor` (a traced scalar), of the step's start, on the optimizer's update: for a
            learning rate that follows what has been measured. None: 1.
    """

    objective: Callable[..., Any]
    optimizer: optax.GradientTransformation
    turn: Callable[[Any], jax.Array] | None = None
    rate: Callable[[Any], jax.Array] | None = None


@flax.struct.dataclass
class TrainState:
    """Everything a training step reads and replaces.

    Attributes:
        step: int32 scalar, the number of steps taken.
        params: `{player: tree}`, float32.
        variables: what gradients don't touch (batch statistics, codebooks, frozen networks).
        opt_state: `{player: optax state}`.
        key: the run's typed random key; never replaced, steps fold their number into it.
        ema: exponential moving average of `params`, or None.
        skipped: int32 scalar, updates skipped so far because a loss or gradient was not finite.
        skipped_run: int32 scalar, how many of the latest steps in a row skipped an update.
    """

    step: jax.Array
    params: dict[str, PyTree]
    variables: PyTree
    opt_state: dict[str, PyTree]
    key: jax.Array
    ema: dict[str, PyTree] | None
    skipped: jax.Array
    skipped_run: jax.Array

    @property
    def eval_params(self) -> dict[str, PyTree]:
        """The parameters to evaluate with: the moving average where one is kept."""
        return self.params if self.ema is None else self.ema


def create_state(
    init: Callable[[jax.Array], tuple[dict[str, PyTree], PyTree]],
    players: Mapping[str, Player],
    *,
    key: jax.Array,
    ema: bool = False,
) -> TrainState:
    """Build the state of step 0; trace it under `jax.eval_shape` or `jax.jit` to place it.

    `init` is `key -> (params, variables)` with `params = {player: tree}`; `key` is the run's typed random key
    (`jax.random.key(seed)`); `ema` keeps a moving average of the parameters. ValueError if the names of
    players and parameters differ.
    """
    init_key, run_key = jax.random.split(key)
    params, variables = init(init_key)
    if set(params) != set(players):
        raise ValueError(
            f"players are {sorted(players)} but init returned parameters for {sorted(params)}; "
            "give every player a subtree of its own name."
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=dict(params),
        variables=variables,
        opt_state={name: player.optimizer.init(params[name]) for name, player in players.items()},
        key=run_key,
        # A copy: the donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, dict(params)) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
        skipped_run=jnp.zeros((), jnp.int32),
    )
