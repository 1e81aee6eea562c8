"""The training step against plain numpy, and its promises: guard, average, shared forward, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.objectives import Aux
from vaesr.training import Player, create_state, make_train_step


def init(key):
    return {"m": {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}}, {
        "calls": jnp.zeros((), jnp.int32)
    }


def objective(params, variables, batch, *, key, step):
    residual = batch["x"] @ params["m"]["w"] + params["m"]["b"][None] - batch["y"]
    loss = jnp.square(residual).mean()
    return loss, Aux({"mse": loss}, {"calls": variables["calls"] + 1})


def noisy_objective(params, variables, batch, *, key, step):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["position"])
    noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    loss, aux = objective(params, variables, {**batch, "y": batch["y"] + noise}, key=key, step=step)
    return loss, aux


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return {"x": generator.normal(size=(8, 3)).astype("f4"), "y": generator.normal(size=(8, 2)).astype("f4")}


def test_sgd_step_equals_numpy(key, batch):
    players = {"m": Player(objective, optax.sgd(0.1))}
    state = create_state(init, players, key=key)
    new, metrics = jax.jit(make_train_step(players))(state, batch)
    w, b = (np.asarray(state.params["m"][n], np.float64) for n in "wb")
    residual = batch["x"] @ w + b - batch["y"]
    np.testing.assert_allclose(metrics["loss"], (residual**2).mean(), rtol=1e-5)
    gradient = 2 * batch["x"].T @ residual / residual.size
    np.testing.assert_allclose(new.params["m"]["w"], w - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert int(new.step) == 1 and int(new.variables["calls"]) == 1


@pytest.mark.parametrize("unroll", [True, False])
def test_accumulation_gives_the_same_step_with_noise(key, batch, unroll):
    players = {"m": Player(noisy_objective, optax.sgd(0.1))}
    state = create_state(init, players, key=key)
    whole, m1 = jax.jit(make_train_step(players))(state, batch)
    parts, m4 = jax.jit(make_train_step(players, accumulate=4, unroll=unroll))(state, batch)
    np.testing.assert_allclose(m1["loss"], m4["loss"], rtol=1e-6)
    np.testing.assert_allclose(whole.params["m"]["w"], parts.params["m"]["w"], rtol=1e-5)
    assert int(parts.variables["calls"]) == 4  # variables are threaded through the micro-batches


def test_moving_average_follows_its_recurrence(key, batch):
    players = {"m": Player(objective, optax.sgd(0.1))}
    state = create_state(init, players, key=key, ema=True)
    step = jax.jit(make_train_step(players, ema_decay=0.3))
    expected = np.asarray(state.params["m"]["w"])
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3):
        state, _ = step(state, batch)
        expected = decay * expected + (1 - decay) * np.asarray(state.params["m"]["w"])
    np.testing.assert_allclose(state.eval_params["m"]["w"], expected, rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_non_finite_update_is_skipped_and_counted(key, batch, poison):
    players = {"m": Player(objective, optax.adam(0.1))}
    state = create_state(init, players, key=key)
    step = jax.jit(make_train_step(players))
    state, _ = step(state, batch)
    bad, metrics = step(state, {**batch, "y": np.full((8, 2), poison, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, bad.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, bad.opt_state, state.opt_state)
    assert int(bad.variables["calls"]) == 1 and int(bad.step) == 2
    assert int(bad.skipped) == 1 and float(metrics["skipped_run"]) == 1
    good, metrics = step(bad, batch)
    assert int(good.skipped) == 1 and float(metrics["skipped_run"]) == 0
    assert not np.array_equal(good.params["m"]["w"], bad.params["m"]["w"])


def two_player_init(key):
    return {"g": jnp.array(2.0), "d": jnp.array(0.5)}, {}


def generator(params, variables, batch, *, key, step):
    fake = params["g"] * batch["z"]
    return jnp.mean(params["d"] * fake), Aux({"g_loss": fake.mean()}, variables, {"fake": fake})


def discriminator(params, variables, batch, *, key, step):
    loss = jnp.mean(params["d"] * batch["fake"]) + params["g"]
    return loss, Aux({}, variables)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_players_share_one_forward_pass_and_touch_only_their_own(accumulate):
    players = {"g": Player(generator, optax.sgd(0.1)), "d": Player(discriminator, optax.sgd(0.1))}
    state = create_state(two_player_init, players, key=jax.random.key(0))
    z = jnp.arange(1.0, 5.0)
    new, metrics = jax.jit(make_train_step(players, accumulate=accumulate))(state, {"z": z})
    np.testing.assert_allclose(new.params["g"], 2.0 - 0.1 * 0.5 * 2.5, rtol=1e-6)
    # The discriminator sees what the generator made before its update, as a constant.
    np.testing.assert_allclose(new.params["d"], 0.5 - 0.1 * 2.0 * 2.5, atol=1e-6)
    assert {"g/loss", "g/grad_norm", "g/g_loss", "d/loss", "d/grad_norm", "skipped_run"} == set(metrics)


def test_noise_depends_on_step_and_seed(key, batch):
    players = {"m": Player(noisy_objective, optax.sgd(0.0))}
    state = create_state(init, players, key=key)
    step = jax.jit(make_train_step(players))
    after, first = step(state, batch)
    _, again = step(state, batch)
    _, second = step(after, batch)
    assert first["loss"] == again["loss"] and first["loss"] != second["loss"]


def test_bad_arguments_are_refused(key, batch):
    player = {"m": Player(objective, optax.sgd(0.1))}
    with pytest.raises(ValueError, match="players is empty"):
        make_train_step({})
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        make_train_step(player, accumulate=0)
    with pytest.raises(ValueError, match="ema_decay must lie in"):
        make_train_step(player, ema_decay=1.0)
    with pytest.raises(ValueError, match="accumulate=3 does not divide the batch of 8"):
        make_train_step(player, accumulate=3)(create_state(init, player, key=key), batch)
    with pytest.raises(ValueError, match=r"players are \['q'\]"):
        create_state(init, {"q": player["m"]}, key=key)
