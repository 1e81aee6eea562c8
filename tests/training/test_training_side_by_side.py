"""Trainings side by side are the trainings alone: whoever is beside them, on however many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr import training
from vaesr.objectives import Aux


def init(key):
    return {"net": {"w": jax.random.normal(key, (5, 3))}}, {"seen": jnp.zeros(())}


def objective(params, variables, batch, *, key, step):
    noise = jax.random.normal(key, batch["x"].shape)
    y = jnp.tanh((batch["x"] + 0.1 * noise) @ params["net"]["w"])
    loss = jnp.square(y - batch["y"]).mean()
    return loss, Aux({"y_mean": y.mean()}, {"seen": variables["seen"] + 1})


def players(**fields):
    return {"net": training.Player(objective, optax.adam(0.1), **fields)}


RNG = np.random.default_rng(0)
BATCH = {"x": RNG.normal(size=(4, 2, 5)).astype("f4"), "y": RNG.normal(size=(4, 2, 3)).astype("f4")}
PLACES = jnp.array([7, 2, 11, 5], jnp.int32)
KEY = jax.random.key(3)


def trained(places, batch, steps=5, in_turn=False, **fields):
    states = training.create_states(init, players(**fields), places, key=KEY)
    step = jax.jit(training.each_step(training.make_train_step(players(**fields)), in_turn=in_turn))
    for _ in range(steps):
        states, metrics = step(states, {**batch, "position": places})
    return states, metrics


@pytest.mark.parametrize("in_turn", [False, True])
def test_each_is_the_training_alone(in_turn):
    together, metrics = trained(PLACES, BATCH, in_turn=in_turn)
    assert together.step.shape == () and together.skipped.shape == (4,)
    for i in range(4):
        alone, own = trained(PLACES[i : i + 1], {name: value[i : i + 1] for name, value in BATCH.items()})
        np.testing.assert_allclose(together.params["net"]["w"][i], alone.params["net"]["w"][0], atol=5e-5)
        np.testing.assert_allclose(metrics["loss"][i], own["loss"][0], rtol=1e-5)


def test_it_is_an_ordinary_training_of_its_own_key():
    of_weights, of_run = (jax.random.fold_in(key, PLACES[1]) for key in jax.random.split(KEY))
    state = training.create_state(init, players(), key=of_weights).replace(key=of_run)
    step = jax.jit(training.make_train_step(players()))
    for _ in range(5):
        state, _ = step(state, {name: value[1] for name, value in BATCH.items()})
    together, _ = trained(PLACES, BATCH)
    np.testing.assert_allclose(together.params["net"]["w"][1], state.params["net"]["w"], atol=5e-5)


def test_a_broken_one_breaks_no_other():
    batch = {**BATCH, "x": BATCH["x"].copy()}
    batch["x"][2] = np.nan
    states, _ = trained(PLACES, batch)
    whole, _ = trained(PLACES, BATCH)
    np.testing.assert_array_equal(states.skipped, [0, 0, 5, 0])
    for i in (0, 1, 3):
        np.testing.assert_array_equal(states.params["net"]["w"][i], whole.params["net"]["w"][i])


def test_a_rate_follows_the_variables():
    """Of a rate that is 0 from the third step on nothing moves any more."""
    still = {"rate": lambda variables: jnp.where(variables["seen"] >= 2, 0.0, 1.0)}
    two, _ = trained(PLACES, BATCH, steps=2)
    five, _ = trained(PLACES, BATCH, steps=5, **still)
    np.testing.assert_array_equal(two.params["net"]["w"], five.params["net"]["w"])


@pytest.mark.parametrize("in_turn", [False, True])
def test_devices_share_them_out(in_turn):
    def run(devices):
        mesh = training.make_mesh(devices=jax.devices()[:devices])
        states = training.create_states(init, players(), jnp.arange(4), key=KEY)
        shardings = training.state_shardings(states, mesh)
        step = training.compile_step(
            training.side_by_side(training.make_train_step(players()), in_turn=in_turn), mesh, state=states,
            batches=lambda source, *, key, step, position: jax.tree.map(lambda leaf: leaf[position], source),
            batch_size=4, steps_per_dispatch=3,
        )  # fmt: skip
        source = jax.device_put(BATCH, training.replicated(mesh))
        states, metrics = step(jax.device_put(states, shardings), source)
        assert len(states.params["net"]["w"].sharding.device_set) == devices
        assert states.params["net"]["w"].sharding.shard_shape((4, 5, 3)) == (4 // devices, 5, 3)
        return states, metrics

    one, many = run(1), run(4)
    np.testing.assert_allclose(one[0].params["net"]["w"], many[0].params["net"]["w"], atol=5e-5)
    np.testing.assert_allclose(one[1]["loss"], many[1]["loss"], rtol=1e-5)


def test_pmap_is_refused():
    states = training.create_states(init, players(), jnp.arange(4), key=KEY)
    with pytest.raises(ValueError, match='several side by side need parallel="jit"'):
        training.compile_step(
            training.side_by_side(training.make_train_step(players())), training.make_mesh(), state=states,
            parallel="pmap",
        )  # fmt: skip
