"""Many small trainings as one: a state for each example of a batch, and one program for all.

Methods that train a network on one image (KernelGAN, ZSSR) take an image's data as an example. Everything in
the state but the step and the run's key has then a leading axis, an entry for each training. A training's key
is `fold_in(key, position)`: what becomes of it does not depend on who is trained beside it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.forms import by_platform
from vaesr.training.state import Player, TrainState, create_state
from vaesr.training.step import Batch, TrainStep

PyTree = Any


def create_states(
    init: Callable[[jax.Array], tuple[dict[str, PyTree], PyTree]],
    players: Mapping[str, Player],
    position: jax.Array,
    *,
    key: jax.Array,
    ema: bool = False,
) -> TrainState:
    """Build the state of step 0 of a training for each of the `position` `[B]`, int32.

    `init` and `players` are those of one training, see `create_state`; `key` is the run's.
    """

    init_key, run_key = jax.random.split(key)

    def one(place: jax.Array) -> TrainState:
        return create_state(init, players, key=jax.random.fold_in(init_key, place), ema=ema)

    states = jax.vmap(one)(position)
    return states.replace(step=jnp.zeros((), jnp.int32), key=run_key)  # type: ignore[attr-defined]


def side_by_side(train_step: TrainStep, *, in_turn: bool = False) -> TrainStep:
    """Make the step of one training that of many: `step(states, batch) -> (states, metrics)`.

    Every leaf of `batch` has a leading axis of trainings, then that of one training's examples; so has the
    state, see `create_states`. "position" `[B]` in the batch tells the trainings apart, by default their
    order. Metrics are means over the trainings, of `skipped_run` the largest; of several devices' where
    `axis_name` names their axes. `in_turn` see `each_step`.
    """
    each = each_step(train_step, in_turn=in_turn)

    def step(
        states: TrainState, batch: Batch, *, axis_name: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        states, metrics = each(states, batch)
        reduced = {}
        for name, value in metrics.items():
            largest = name == "skipped_run"
            one = value.max() if largest else value.mean()
            if axis_name is not None:
                one = jax.lax.pmax(one, axis_name) if largest else jax.lax.pmean(one, axis_name)
            reduced[name] = one
        return states, reduced

    return step


def each_step(train_step: TrainStep, *, in_turn: bool = False) -> TrainStep:
    """As `side_by_side`, with the metrics of every training, `[B]`.

    `in_turn`: CPUs take the trainings one after the other. That is for networks whose maps for one image fill
    the caches; small ones are faster as one batch of products, which is how accelerators take all.
    """

    def step(states: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = dict(batch)
        count = states.skipped.shape[0]
        position = batch.pop("position", jnp.arange(count, dtype=jnp.int32))
        # Typed keys can't go through a choice by platform.
        key, kind = jax.random.key_data(states.key), jax.random.key_impl(states.key)
        whole = states.replace(key=key)  # type: ignore[attr-defined]
        axes = _axes(whole)

        def one(own: TrainState, batch: Batch, place: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
            mine = jax.random.fold_in(jax.random.wrap_key_data(own.key, impl=kind), place)
            new: Any
            new, metrics = train_step(own.replace(key=mine), batch)  # type: ignore[attr-defined]
            return new.replace(key=own.key), metrics

        def together(states: TrainState, batch: Batch, position: jax.Array) -> Any:
            return jax.vmap(one, in_axes=(axes, 0, 0), out_axes=(axes, 0))(states, batch, position)

        def one_by_one(states: TrainState, batch: Batch, position: jax.Array) -> Any:
            own: Any = states.replace(step=None, key=None)  # type: ignore[attr-defined]

            def body(_: None, given: Any) -> Any:
                own, batch, place = given
                new: Any
                new, metrics = one(own.replace(step=states.step, key=states.key), batch, place)
                return None, (new.replace(step=None, key=None), metrics)

            _, (own, metrics) = jax.lax.scan(body, None, (own, batch, position))
            return own.replace(step=states.step + 1, key=states.key), metrics

        new: Any
        if in_turn:
            new, metrics = by_platform(whole, batch, position, cpu=one_by_one, default=together)
        else:
            new, metrics = together(whole, batch, position)
        return new.replace(key=states.key), metrics

    return step


def _axes(states: TrainState) -> Any:
    """Which axis of each part of a state is that of the trainings: 0, or none."""
    return TrainState(
        step=None, params=0, variables=0, opt_state=0, key=None,  # type: ignore[arg-type]
        ema=None if states.ema is None else 0, skipped=0, skipped_run=0,  # type: ignore[arg-type]
    )  # fmt: skip
