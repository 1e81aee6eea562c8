"""Run folders as training leaves them, without training."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def write_run(folder: pathlib.Path, player: str, model: Any, example: jax.Array) -> pathlib.Path:
    """Saves a run, as training leaves it, whose parameters come from a numpy generator."""
    import optax

    from vaesr.runs import describe_model
    from vaesr.training.checkpoint import Checkpoints
    from vaesr.training.state import TrainState

    shapes = dict(jax.eval_shape(model.init, jax.random.key(0), example))
    generator = np.random.default_rng(3)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        spread = (2.0 / max(1, int(np.prod(leaf.shape[:-1])))) ** 0.5
        return jnp.asarray(generator.normal(0, spread, leaf.shape), leaf.dtype)

    params = {player: jax.tree.map(fill, shapes.pop("params"))}
    # Of batch statistics: means of 0 and variances of 1.
    rest = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype), shapes
    )
    state = TrainState(
        step=jnp.int32(7),
        params=params,
        variables={player: rest} if rest else {},
        opt_state={player: optax.sgd(0.1).init(params)},
        key=jax.random.key(1),
        ema=None,
        skipped=jnp.int32(0),
        skipped_run=jnp.int32(0),
    )
    folder.mkdir(parents=True)
    config = {"experiment": f"experiments.{player}", "config": {}, "model": describe_model(model)}
    (folder / "config.json").write_text(json.dumps(config))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state, step=7, score=1.0)
    return folder
