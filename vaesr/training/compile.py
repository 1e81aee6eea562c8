"""Compile a training step for a mesh: shardings, donation, several steps per dispatch, `pmap`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from vaesr import forms
from vaesr.training.mesh import DATA_AXES, are_side_by_side, batch_sharding, replicated, state_shardings
from vaesr.training.state import TrainState
from vaesr.training.step import TrainStep

PyTree = Any
Batches = Callable[..., dict[str, Any]]
Step = Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]

# Folded into the run's key for everything that chooses data. Steps are folded in too, to make the players'
# keys; they are int32, so none of them is this.
_DATA_TAG = 0x8000DA7A


def data_key(key: jax.Array) -> jax.Array:
    """The key that a run's data is chosen with, of `state.key`.

    It is the same for every step; samplers fold the step in.
    """
    return jax.random.fold_in(key, _DATA_TAG)


def contains_convolution(function: Callable[..., Any], *args: Any, platform: str) -> bool:
    """Whether tracing `function(*args)` meets a convolution of XLA's anywhere in its jaxpr.

    `args` are arrays or shapes; of operations with a form per platform that for `platform` counts, such as
    "cpu".
    """

    def search(jaxpr: Any) -> bool:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                return True
            form = forms.of_platform(equation, platform)
            for value in equation.params.values() if form is None else (form,):
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns") and search(inner):
                        return True
        return False

    return search(jax.make_jaxpr(function)(*args).jaxpr)


def longest_dispatch(function: Callable[..., Any], *args: Any, platform: str) -> int:
    """The most training steps that one dispatch should take of a network that `function(*args)` applies.

    More than 50 bring nothing and make stopping and logging coarse. XLA:CPU runs the gradients of its
    convolutions 15 to 30 times slower inside a loop: one there.
    """
    alone = platform == "cpu" and contains_convolution(function, *args, platform=platform)
    return 1 if alone else 50


def compile_step(
    train_step: TrainStep,
    mesh: Mesh,
    *,
    state: TrainState,
    batches: Batches | None = None,
    batch_size: int | None = None,
    streamed: bool | None = None,
    parallel: Literal["jit", "pmap"] = "jit",
    steps_per_dispatch: int = 1,
) -> Step:
    """Compile `train_step` for a mesh: `step(state, source) -> (state, metrics)`, metrics stacked `[K]`.

    `state`, of arrays or of shapes, gives the shardings; it is donated under "jit". `batches`, `(source, *,
    key, step, position) -> batch`, runs inside the compiled step: `source` is what the compiled function gets
    at each call, `position` (int32 `[batch_size]`) the examples' indices in the global batch, so it needs the
    global `batch_size`; None: the source is the batch itself.

    `streamed`: the source holds the data of just these steps (its example axis is split over devices, and
    with several steps per dispatch it has an axis of steps before it); False: it is resident and whole on
    every device; by default True without `batches`, else False.

    `parallel`: "jit" partitions one global program, "pmap" runs one program per device with explicit
    averages. Both give the same numbers as long as no layer has batch statistics: those are global under
    "jit", per device under "pmap". `steps_per_dispatch`: K steps per call, under one `lax.scan`. ValueError
    for a batch that the devices don't divide, an unknown `parallel`, and for fsdp or several processes under
    "pmap".
    """
    streamed = batches is None if streamed is None else streamed
    if batches is not None and batch_size is None:
        raise ValueError("batch_size is needed together with batches.")
    if batch_size is not None and batch_size % mesh.size:
        raise ValueError(f"batch_size={batch_size} must be a multiple of the number of devices, {mesh.size}.")
    if steps_per_dispatch < 1:
        raise ValueError(f"steps_per_dispatch must be at least 1, got {steps_per_dispatch}.")
    if parallel == "pmap":
        if are_side_by_side(state):
            raise ValueError('parallel="pmap" is for one training; several side by side need parallel="jit".')
        return _pmap_step(train_step, mesh, batches, batch_size, streamed, steps_per_dispatch)
    if parallel != "jit":
        raise ValueError(f'parallel must be "jit" or "pmap", got {parallel!r}.')

    data_sharding = batch_sharding(mesh)

    def one(state: TrainState, source: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = source
        if batches is not None:
            position = jnp.arange(batch_size, dtype=jnp.int32)
            position = jax.lax.with_sharding_constraint(position, data_sharding)
            batch = batches(source, key=data_key(state.key), step=state.step, position=position)
            batch = {**batch, "position": position}
        batch = jax.lax.with_sharding_constraint(batch, data_sharding)
        return step(state, batch)

    shardings = state_shardings(state, mesh)
    step = _apart(train_step, mesh, shardings) if are_side_by_side(state) else train_step
    source_sharding = (
        batch_sharding(mesh, leading=int(steps_per_dispatch > 1)) if streamed else replicated(mesh)
    )
    return jax.jit(
        _repeat(one, steps_per_dispatch, streamed),
        in_shardings=(shardings, source_sharding),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=(0,),
    )


def _apart(train_step: TrainStep, mesh: Mesh, shardings: PyTree) -> Step:
    """Trainings side by side: each device has its own and knows nothing of the others'."""
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
    batch = batch_sharding(mesh).spec

    def local(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        return train_step(state, batch, axis_name=DATA_AXES)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(specs, batch), out_specs=(specs, PartitionSpec()), check_vma=False
    )


def _repeat(one: Step, count: int, streamed: bool) -> Step:
    """Run `one` `count` times under a scan; metrics come back stacked `[count]`."""

    def run(state: TrainState, source: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        if count == 1:
            state, metrics = one(state, source)
            return state, {name: value[None] for name, value in metrics.items()}
        if streamed:
            return jax.lax.scan(one, state, source, length=count)
        return jax.lax.scan(lambda s, _: one(s, source), state, None, length=count)

    return run


def _pmap_step(
    train_step: TrainStep,
    mesh: Mesh,
    batches: Batches | None,
    batch_size: int | None,
    streamed: bool,
    steps_per_dispatch: int,
) -> Step:
    """The `pmap` entry: the same pure step per device, with gradients averaged by name."""
    devices = list(mesh.devices.flat)
    count = len(devices)
    if mesh.shape["fsdp"] != 1:
        raise ValueError('parallel="pmap" replicates the state; use parallel="jit" for fsdp > 1.')
    if jax.process_count() > 1:
        raise ValueError('parallel="pmap" runs in one process; use parallel="jit" for several.')
    axis = "data"

    def local(
        state: TrainState, source: PyTree, position: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def one(state: TrainState, source: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = source
            if batches is not None:
                batch = batches(source, key=data_key(state.key), step=state.step, position=position)
            return train_step(state, {**batch, "position": position}, axis_name=axis)

        return _repeat(one, steps_per_dispatch, streamed)(state, source)

    mapped = jax.pmap(
        local,
        axis_name=axis,
        in_axes=(None, 0 if streamed else None, 0),
        out_axes=None,
        devices=devices,
    )
    example_axis = int(steps_per_dispatch > 1)

    def split(x: Any) -> jax.Array:
        shape = (*x.shape[:example_axis], count, -1, *x.shape[example_axis + 1 :])
        return jnp.moveaxis(jnp.reshape(x, shape), example_axis, 0)

    def run(state: TrainState, source: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        size = batch_size or jax.tree.leaves(source)[0].shape[example_axis]
        position = jnp.arange(size, dtype=jnp.int32).reshape(count, -1)
        return mapped(state, jax.tree.map(split, source) if streamed else source, position)

    return run
