"""Device meshes and where each part of the state lives on them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any
DATA_AXES = ("data", "fsdp")
# Below this many elements sharding a tensor costs more in latency than it saves in memory.
MIN_FSDP_SIZE = 2**14


def make_mesh(*, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices, by default all of the run's, as a `(data, fsdp)` mesh.

    `fsdp` devices share one copy of parameters and optimizer state; batches are split over both axes.
    ValueError if `fsdp` does not divide the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} must divide the number of devices, {len(devices)}.")
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, DATA_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """The sharding of a batch: its example axis over every device.

    `leading` axes stand before the example axis (1 for a stack of batches).
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, DATA_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def are_side_by_side(state: PyTree) -> bool:
    """Whether a `TrainState` is that of several trainings, see `vaesr.training.side_by_side`."""
    return len(state.skipped.shape) == 1


def state_shardings(state: PyTree, mesh: Mesh, *, min_size: int = MIN_FSDP_SIZE) -> PyTree:
    """Choose a sharding for every leaf of a `TrainState`, of arrays or of shapes (`jax.eval_shape`).

    Parameters, their moving average and the optimizer state are split over `fsdp` along their longest
    divisible axis; leaves with fewer than `min_size` elements, scalars and `variables` are replicated. Of
    trainings side by side every device has some.
    """
    if are_side_by_side(state):
        own = jax.tree.map(lambda _: batch_sharding(mesh), state)
        return own.replace(step=replicated(mesh), key=replicated(mesh))
    parts = mesh.shape["fsdp"]

    def choose(leaf: Any) -> NamedSharding:
        shape = leaf.shape
        axes = [axis for axis, size in enumerate(shape) if size % parts == 0 and size >= parts]
        if parts == 1 or not axes or np.prod(shape) < min_size:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(
            mesh, PartitionSpec(*["fsdp" if a == longest else None for a in range(len(shape))])
        )

    whole = jax.tree.map(lambda _: replicated(mesh), state)
    return whole.replace(
        params=jax.tree.map(choose, state.params),
        opt_state=jax.tree.map(choose, state.opt_state),
        ema=jax.tree.map(choose, state.ema),
    )
