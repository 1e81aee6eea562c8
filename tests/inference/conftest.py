"""Tiny runs in folders, as training leaves them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vaesr.inference.describe import describe_model
from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR
from vaesr.models.vae import VAE


def write_run(folder: pathlib.Path, player: str, model: nn.Module, example: jax.Array) -> pathlib.Path:
    """Saves a run whose parameters come from a numpy generator."""
    import optax

    from vaesr.training.checkpoint import Checkpoints
    from vaesr.training.state import TrainState

    shapes = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
    generator = np.random.default_rng(3)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        spread = (2.0 / max(1, int(np.prod(leaf.shape[:-1])))) ** 0.5
        return jnp.asarray(generator.normal(0, spread, leaf.shape), leaf.dtype)

    params = {player: jax.tree.map(fill, shapes)}
    state = TrainState(
        step=jnp.int32(7),
        params=params,
        variables={},
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


@pytest.fixture(scope="session")
def edsr_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small EDSR x2 (receptive radius 8)."""
    model = EDSR(scale=2, channels=8, blocks=2)
    return write_run(tmp_path_factory.mktemp("runs") / "edsr", "edsr", model, jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="session")
def mdsr_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small MDSR x2, x3 and x4."""
    model = MDSR(channels=4, blocks=1)
    return write_run(tmp_path_factory.mktemp("runs") / "mdsr", "mdsr", model, jnp.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a small Bernoulli VAE of 8 x 8 grey images with 3 latent dimensions."""
    model = VAE(latent=3, hidden=(16,), image_shape=(8, 8, 1))
    return write_run(tmp_path_factory.mktemp("runs") / "vae", "vae", model, jnp.zeros((1, 8, 8, 1)))
