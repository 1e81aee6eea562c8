"""The training step: pure, not compiled, the same for one player (a VAE) or two (a GAN)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vaesr.forms import by_platform
from vaesr.training.state import Player, TrainState

PyTree = Any
Batch = dict[str, Any]
TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    players: Mapping[str, Player],
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    unroll: bool | None = None,
) -> TrainStep:
    """Build `train_step(state, batch, *, axis_name=None) -> (state, metrics)`.

    The players are updated in order. Each one's objective is differentiated with respect to its own subtree;
    the others are constants by construction. What an objective returns in `Aux.shared` is put into the batch
    of the players after it. An update whose loss or gradient is not finite is skipped and counted. The step's
    key is `fold_in(fold_in(state.key, state.step), player)`, so a resumed run draws what the uninterrupted
    one would.

    `batch` is a dict of arrays with a common leading axis; `position` (int32 `[B]`, the example's index in
    the global batch) is added where it is missing. `axis_name` names the mapped axis under `pmap`. Metrics
    are float32 scalars, prefixed `player/` when there are several players.

    `accumulate` micro-batches are cut of the batch and their gradients averaged. `ema_decay`, in (0, 1), of
    the parameters' moving average is reached from below as (1 + step) / (10 + step); None keeps none.
    `unroll` the loop over micro-batches instead of scanning it: by default where the step is compiled for
    CPUs (convolution gradients inside a loop are 15-30 times slower there), not elsewhere.
    """
    if not players:
        raise ValueError("players is empty; give at least one {name: Player(objective, optimizer)}.")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}.")
    if ema_decay is not None and not 0.0 < ema_decay < 1.0:
        raise ValueError(f"ema_decay must lie in (0, 1), got {ema_decay}; pass None to keep no average.")

    def train_step(
        state: TrainState, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = _microbatches(_with_position(batch), accumulate)
        step_key = jax.random.fold_in(state.key, state.step)
        params, opt_state, variables = dict(state.params), dict(state.opt_state), state.variables
        metrics: dict[str, jax.Array] = {}
        all_finite = jnp.array(True)
        for number, (name, player) in enumerate(players.items()):

            def move(
                own: tuple[PyTree, PyTree, PyTree],
                name: str = name,
                player: Player = player,
                number: int = number,
                batch: Batch = batch,
            ) -> tuple[tuple[PyTree, PyTree, PyTree], jax.Array, dict[str, jax.Array], Batch]:
                own_params, own_opt_state, variables = own
                loss, grads, new_variables, player_metrics, shared = _gradients(
                    player.objective,
                    name,
                    {**params, name: own_params},
                    variables,
                    batch,
                    key=jax.random.fold_in(step_key, number),
                    step=state.step,
                    accumulate=accumulate,
                    unroll=unroll,
                )
                if axis_name is not None:
                    loss, grads, player_metrics = jax.lax.pmean((loss, grads, player_metrics), axis_name)
                grad_norm = optax.tree.norm(grads)
                finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
                updates, new_opt_state = player.optimizer.update(grads, own_opt_state, own_params)
                if player.rate is not None:
                    factor = player.rate(state.variables)
                    updates = jax.tree.map(lambda update: factor * update, updates)
                new = optax.apply_updates(own_params, updates), new_opt_state, new_variables
                player_metrics = {"loss": loss, "grad_norm": grad_norm, **player_metrics}
                if player.turn is not None:
                    player_metrics["moved"] = jnp.ones(())
                player_metrics = {key: value.astype(jnp.float32) for key, value in player_metrics.items()}
                return _select(finite, new, own), finite, player_metrics, shared

            own = params[name], opt_state[name], variables
            if player.turn is None:
                own, finite, player_metrics, shared = move(own)
            else:
                own, finite, player_metrics, shared = _in_turn(player.turn(state.variables), move, own)
            params[name], opt_state[name], variables = own
            batch = {**batch, **shared}
            all_finite &= finite
            prefix = f"{name}/" if len(players) > 1 else ""
            metrics |= {prefix + key: value for key, value in player_metrics.items()}
        skipped_run = jnp.where(all_finite, 0, state.skipped_run + 1)
        state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1,
            params=params,
            variables=variables,
            opt_state=opt_state,
            ema=None if state.ema is None else _average(state.ema, params, ema_decay, state.step),
            skipped=state.skipped + (~all_finite).astype(jnp.int32),
            skipped_run=skipped_run,
        )
        metrics["skipped_run"] = skipped_run.astype(jnp.float32)
        return state, metrics

    return train_step


def _in_turn(turn: jax.Array, move: Callable[[Any], Any], own: Any) -> Any:
    """`move(own)` when it is the player's turn; else what it is, with NaN as metrics."""
    shapes: dict[str, Any] = {}

    def moving(own: Any) -> Any:
        *rest, metrics, shared = move(own)
        if shared:
            raise ValueError("a player with turns cannot share: the others would find nothing in its pauses.")
        shapes.update({name: (value.shape, value.dtype) for name, value in metrics.items()})
        return *rest, metrics, {}

    def pausing(own: Any) -> Any:  # `cond` traces it second
        metrics = {name: jnp.full(shape, jnp.nan, dtype) for name, (shape, dtype) in shapes.items()}
        return own, jnp.array(True), metrics | {"moved": jnp.zeros((), jnp.float32)}, {}

    return jax.lax.cond(turn, moving, pausing, own)


def _with_position(batch: Batch) -> Batch:
    if "position" in batch:
        return batch
    size = jax.tree.leaves(batch)[0].shape[0]
    return {**batch, "position": jnp.arange(size, dtype=jnp.int32)}


def _microbatches(batch: Batch, count: int) -> Batch:
    """Cut `[B, ...]` into strided micro-batches `[count, B / count, ...]`; strided, so no shard moves."""
    if count == 1:
        return batch

    def cut(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            raise ValueError(f"accumulate={count} does not divide the batch of {x.shape[0]} examples.")
        return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def _gradients(
    objective: Callable[..., Any],
    name: str,
    params: dict[str, PyTree],
    variables: PyTree,
    batch: Batch,
    *,
    key: jax.Array,
    step: jax.Array,
    accumulate: int,
    unroll: bool | None,
) -> tuple[jax.Array, PyTree, PyTree, dict[str, jax.Array], Batch]:
    """Loss, gradient of `params[name]`, variables, metrics and shared arrays, over all micro-batches."""

    def loss_of(own: PyTree, variables: PyTree, part: Batch) -> tuple[jax.Array, Any]:
        return objective({**params, name: own}, variables, part, key=key, step=step)

    grad_of = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate == 1:
        (loss, aux), grads = grad_of(params[name], variables, batch)
        return loss, grads, aux.variables, aux.metrics, aux.shared

    def body(carry: tuple[PyTree, PyTree], part: Batch) -> tuple[tuple[PyTree, PyTree], Any]:
        grads, variables = carry
        (loss, aux), new = grad_of(params[name], variables, part)
        return (jax.tree.map(jnp.add, grads, new), aux.variables), (loss, aux.metrics, aux.shared)

    def unrolled(start: tuple[PyTree, PyTree], parts: Batch) -> Any:
        return jax.lax.scan(body, start, parts, unroll=accumulate)

    def looped(start: tuple[PyTree, PyTree], parts: Batch) -> Any:
        return jax.lax.scan(body, start, parts)

    start = jax.tree.map(jnp.zeros_like, params[name]), variables
    if unroll is None:
        done = by_platform(start, batch, cpu=unrolled, default=looped)
    else:
        done = (unrolled if unroll else looped)(start, batch)
    (grads, variables), (losses, metrics, shared) = done
    grads = jax.tree.map(lambda g: g / accumulate, grads)
    return losses.mean(), grads, variables, {k: v.mean(0) for k, v in metrics.items()}, shared


def _select(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _average(ema: PyTree, params: PyTree, decay: float | None, step: jax.Array) -> PyTree:
    if decay is None:
        raise ValueError("the state keeps a moving average; give make_train_step an ema_decay.")
    # A short memory at first, or the initial weights would still show after 1 / (1 - decay) steps.
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e * rate + p * (1.0 - rate), ema, params)
