"""One program, many devices: jit, fsdp, pmap and several steps per dispatch give one device's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.objectives import Aux
from vaesr.training import (
    Player,
    compile_step,
    contains_convolution,
    create_state,
    make_mesh,
    make_train_step,
    replicated,
    state_shardings,
)

STEPS = 20


def init(key):
    return {"m": {"w": 0.1 * jax.random.normal(key, (256, 128)), "b": jnp.zeros(128)}}, {}


def objective(params, variables, batch, *, key, step):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["position"])
    noise = jax.vmap(lambda k: jax.random.normal(k, (128,)))(keys)
    output = jnp.tanh(batch["x"] @ params["m"]["w"] + params["m"]["b"][None]) + 0.1 * noise
    loss = jnp.square(output - batch["y"]).mean()
    return loss, Aux({}, variables)


def sample(source, *, key, step, position):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), position)
    index = jax.vmap(lambda k: jax.random.randint(k, (), 0, 100))(keys)
    return {name: value[index] for name, value in source.items()}


PLAYERS = {"m": Player(objective, optax.sgd(0.3, momentum=0.9))}
GENERATOR = np.random.default_rng(0)
DATA = {n: GENERATOR.normal(size=(100, d)).astype("f4") for n, d in (("x", 256), ("y", 128))}


def losses(devices, *, fsdp=1, parallel="jit", steps_per_dispatch=1, accumulate=1, streamed=False):
    mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    create = lambda key: create_state(init, PLAYERS, key=key, ema=True)
    shapes = jax.eval_shape(create, jax.random.key(0))
    shardings = state_shardings(shapes, mesh)
    state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
    step = compile_step(
        make_train_step(PLAYERS, accumulate=accumulate, ema_decay=0.9), mesh, state=shapes,
        batches=None if streamed else sample, batch_size=None if streamed else 32,
        parallel=parallel, steps_per_dispatch=steps_per_dispatch,
    )  # fmt: skip
    source = DATA if parallel == "pmap" else jax.device_put(DATA, replicated(mesh))
    result = []
    for number in range(STEPS // steps_per_dispatch):
        if streamed:
            first = number * steps_per_dispatch
            batch = {
                n: np.stack([v[(first + k) % 3 :][:32] for k in range(steps_per_dispatch)])
                for n, v in DATA.items()
            }
            source = batch if steps_per_dispatch > 1 else {n: v[0] for n, v in batch.items()}
        state, metrics = step(state, source)
        result.append(np.asarray(metrics["loss"]))
    return np.concatenate(result), state


@pytest.fixture(scope="module")
def one_device():
    return {streamed: losses(1, streamed=streamed)[0] for streamed in (True, False)}


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {"devices": 4},
        {"devices": 4, "fsdp": 2},
        {"devices": 4, "fsdp": 4, "steps_per_dispatch": 5},
        {"devices": 4, "parallel": "pmap"},
        {"devices": 2, "parallel": "pmap", "steps_per_dispatch": 4},
        {"devices": 2, "accumulate": 4},
        {"devices": 1, "steps_per_dispatch": 10},
    ],
    ids=str,
)
def test_same_losses_as_one_device(one_device, how, streamed):
    np.testing.assert_allclose(losses(streamed=streamed, **how)[0], one_device[streamed], atol=1e-5)


@pytest.mark.slow
def test_fsdp_splits_large_parameters_and_their_optimizer_state():
    _, state = losses(4, fsdp=4)
    for tree in (state.params, state.ema, state.opt_state):
        for leaf in jax.tree.leaves(tree):
            assert leaf.sharding.is_fully_replicated == (leaf.shape != (256, 128))
            if leaf.shape == (256, 128):
                assert {shard.data.shape for shard in leaf.addressable_shards} == {(64, 128)}


def test_bad_arguments_are_refused():
    mesh = make_mesh()
    shapes = jax.eval_shape(lambda key: create_state(init, PLAYERS, key=key), jax.random.key(0))
    step = make_train_step(PLAYERS)
    with pytest.raises(ValueError, match="fsdp=3 must divide the number of devices, 4"):
        make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="batch_size=30 must be a multiple of the number of devices, 4"):
        compile_step(step, mesh, state=shapes, batches=sample, batch_size=30)
    with pytest.raises(ValueError, match="batch_size is needed"):
        compile_step(step, mesh, state=shapes, batches=sample)
    with pytest.raises(ValueError, match='use parallel="jit" for fsdp'):
        compile_step(step, make_mesh(fsdp=2), state=shapes, parallel="pmap")
    with pytest.raises(ValueError, match='must be "jit" or "pmap", got \'xmap\''):
        compile_step(step, mesh, state=shapes, parallel="xmap")


def test_convolutions_are_found_inside_nested_programs():
    image, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    conv = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert contains_convolution(
        jax.jit(lambda x, k: jax.checkpoint(conv)(x, k).sum()), image, kernel, platform="cpu"
    )
    assert contains_convolution(
        lambda x, k: jax.lax.cond(x[0, 0, 0, 0] > 0, conv, conv, x, k), image, kernel, platform="cpu"
    )
    assert not contains_convolution(lambda x, k: x @ k[0, 0], image, kernel, platform="cpu")
