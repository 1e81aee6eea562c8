"""Many small trainings, each on a photo of its own: dispatched together, leaving as they end."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaesr import training

PyTree = Any
# Steps of one dispatch, after which it is seen which trainings have come to their end.
DISPATCH = 50
Run = Callable[..., tuple[training.TrainState, PyTree]]
"""`(states, shared, own, names [B], steps) -> (states, findings [B, ...])`."""


def spread(run: Run) -> Run:
    """Compile a pure `Run` for this process's devices: each has some of the trainings, and its own loop."""
    mesh = _mesh()

    def everywhere(states: Any, shared: PyTree, own: PyTree, names: jax.Array, steps: int) -> Any:
        if mesh.size == 1:
            return run(states, shared, own, names, steps)
        parts = jax.tree.map(lambda sharding: sharding.spec, training.state_shardings(states, mesh))
        split, whole = training.batch_sharding(mesh).spec, training.replicated(mesh).spec
        local: Any = functools.partial(run, steps=steps)
        return jax.shard_map(
            local, mesh=mesh, in_specs=(parts, whole, split, split),
            out_specs=(parts, split), check_vma=False,
        )(states, shared, own, names)  # fmt: skip

    return jax.jit(everywhere, static_argnums=4, donate_argnums=0)


def _mesh() -> jax.sharding.Mesh:
    return training.make_mesh(devices=jax.local_devices())


def train_together(
    states: Callable[[jax.Array], training.TrainState],
    run: Run,
    names: np.ndarray,
    *,
    shared: PyTree,
    own: PyTree,
    steps: int,
    finished: Callable[[int, np.ndarray, PyTree], np.ndarray],
    progress: Callable[[float], None] | None = None,
) -> tuple[PyTree, np.ndarray]:
    """Train until all have come to their end, spread over this process's devices.

    When half of those in a batch have ended, they leave it, so that a batch is compiled for few sizes.

    Args:
        states: makes the initial states of trainings with these names.
        run: takes steps; of `spread`.
        names: `[N]` int32 that tell trainings apart, in whatever company.
        shared: arrays that every device gets whole.
        own: arrays of the trainings, `[N, ...]`.
        steps: the most that one takes.
        finished: `(steps taken, trainings [M], their findings) -> [M] bool`, called after every dispatch
            with all that are running.
        progress: called with the share that is done.

    Returns:
        The findings of each when it ended, `[N, ...]` of numpy, and the steps `[N]` it took.
    """
    count, devices = len(names), jax.local_device_count()
    mesh = _mesh()
    place = training.batch_sharding(mesh)
    shared = jax.device_put(shared, training.replicated(mesh))
    # Rows of the batch: trainings, some of them twice where the devices do not divide their number.
    rows = np.resize(np.arange(count), _rows(count, devices))

    def placed(rows: np.ndarray) -> tuple[PyTree, jax.Array]:
        mine = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[rows], place), own)
        return mine, jax.device_put(names[rows], place)

    mine, names_of = placed(rows)
    now = states(names_of)
    now = jax.device_put(now, training.state_shardings(now, mesh))
    running, ends, kept = np.ones(count, bool), np.full(count, steps), None
    for done in range(0, steps, DISPATCH):
        length = min(DISPATCH, steps - done)
        now, found = run(now, shared, mine, names_of, length)
        first = np.unique(rows, return_index=True)[1]
        left = rows[first]
        found = jax.tree.map(lambda leaf, first=first: np.asarray(leaf)[first], found)
        if kept is None:
            kept = jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape[1:]), leaf.dtype), found)
        alive = running[left]
        for whole, part in zip(jax.tree.leaves(kept), jax.tree.leaves(found), strict=True):
            whole[left[alive]] = part[alive]
        over = np.zeros(len(left), bool)
        over[alive] = finished(
            done + length, left[alive], jax.tree.map(lambda leaf, alive=alive: leaf[alive], found)
        )
        running[left[over]], ends[left[over]] = False, done + length
        if progress is not None:
            progress(1 - running.mean() * (1 - (done + length) / steps))
        if not running.any():
            break
        staying = np.flatnonzero(running)
        size = _rows(len(staying), devices)
        if size <= len(rows) // 2:
            chosen = np.resize(staying, size)
            where = np.array([int(np.flatnonzero(rows == row)[0]) for row in chosen])
            now, rows = _taken(now, where, mesh), chosen
            mine, names_of = placed(rows)
    return kept, ends


def _rows(trainings: int, devices: int) -> int:
    """The size of a batch.

    Each device has two at least: a loop of one is compiled into another program, whose roundings differ, and
    a GAN's training makes much of that.
    """
    return max(-(-trainings // devices), 2) * devices


def _taken(states: Any, where: np.ndarray, mesh: Any) -> Any:
    """Some of the trainings."""
    own = states.replace(step=None, key=None)
    own = jax.tree.map(lambda leaf: leaf[jnp.asarray(where)], own)
    whole = own.replace(step=states.step, key=states.key)
    return jax.device_put(whole, training.state_shardings(whole, mesh))
