"""The last checkpoint of a run folder, whatever devices wrote it."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp


def final_state(workdir: pathlib.Path):
    """The step, and all that the state holds, in numpy."""
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        path = workdir / "checkpoints" / str(steps[-1]) / "default"
        tree = reader.metadata(path).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return steps[-1], reader.restore(path, args=ocp.args.PyTreeRestore(item=tree, restore_args=arguments))
