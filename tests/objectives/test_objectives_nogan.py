"""NoGAN: the switch rule step by step, who is in training, values, and the critic alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.test_models_sr import filled
from vaesr import losses, objectives
from vaesr.models.critic import Critic
from vaesr.models.unet import UNet
from vaesr.objectives import in_training
from vaesr.training import Player, create_state, make_train_step

LN2 = float(np.log(2))


def still(model):
    return lambda collections, images: model.apply(collections, images)


def toy(threshold=0.65, rate=0.3):
    """A generator that adds a number to grey images, a critic that is linear in their mean."""

    def generator(params, variables, x):
        return x + params, {"seen": variables["seen"] + 1}

    def critic(params, variables, images, keys):
        return (images.mean((1, 2, 3)) * params)[:, None], {"seen": variables["seen"] + 1}

    both = objectives.nogan(
        generator, lambda c, x: x + c["params"], critic,
        lambda c, images: (images.mean((1, 2, 3)) * c["params"])[:, None],
        threshold=threshold, pixel_weight=0.0,
    )  # fmt: skip
    players = {n: Player(o, optax.sgd(rate), objectives.turns()[n]) for n, o in both.items()}
    zero = jnp.zeros((), jnp.int32)
    variables = {n: {"seen": zero} for n in both} | {objectives.TURN: jnp.array(False)}
    state = create_state(
        lambda key: ({"critic": jnp.zeros(()), "generator": jnp.zeros(())}, variables), players,
        key=jax.random.key(0),
    )  # fmt: skip
    batch = {"x_lr": jnp.zeros((4, 2, 2, 3)), "x_hr": jnp.ones((4, 2, 2, 3))}
    return jax.jit(make_train_step(players)), state, batch


def test_the_critic_moves_until_below_the_threshold_then_the_generator_once():
    step, state, batch = toy()
    trace = []
    for _ in range(60):
        state, metrics = step(state, batch)
        moved = "generator" if float(metrics["generator/moved"]) else "critic"
        assert float(metrics["generator/moved"]) + float(metrics["critic/moved"]) == 1
        trace.append((moved, float(metrics["critic/loss"])))
    assert trace[0][0] == "critic" and trace[0][1] == pytest.approx(LN2, rel=1e-5)
    names = [name for name, _ in trace]
    assert 3 <= names.count("generator") <= 40
    for (name, loss), (following, _) in itertools.pairwise(trace):
        if name == "generator":
            assert following == "critic"  # exactly one step
        else:
            assert following == ("generator" if loss < 0.65 else "critic")
    # Each counts its own moves: a player that does not move is out of training.
    assert int(state.variables["generator"]["seen"]) == names.count("generator")
    assert int(state.variables["critic"]["seen"]) == 2 * names.count("critic")
    assert float(state.params["generator"]) > 0  # towards the real images


def test_a_threshold_that_is_always_met_alternates():
    step, state, batch = toy(threshold=10.0)
    found = []
    for _ in range(6):
        state, metrics = step(state, batch)
        found.append(float(metrics["generator/moved"]))
    assert found == [0, 1, 0, 1, 0, 1]


def test_a_threshold_out_of_reach_never_lets_the_generator_move():
    step, state, batch = toy(threshold=1e-6)
    for _ in range(6):
        state, metrics = step(state, batch)
    assert float(metrics["generator/moved"]) == 0
    assert float(state.params["generator"]) == 0
    with pytest.raises(ValueError, match="threshold must be above 0"):
        toy(threshold=0.0)


def real_networks():
    generator = UNet(blocks=(1, 1, 1, 1), channels=4, form="loop")
    critic = Critic(channels=4, blocks=2, form="loop")
    rng = np.random.default_rng(0)
    batch = {k: jnp.asarray(rng.random((2, 32, 32, 3)), jnp.float32) for k in ("x_lr", "x_hr")}
    trees = {"generator": filled(generator, batch["x_lr"]), "critic": filled(critic, batch["x_hr"], seed=2)}
    params = {name: tree["params"] for name, tree in trees.items()}
    variables = {n: {k: v for k, v in tree.items() if k != "params"} for n, tree in trees.items()}
    return generator, critic, params, variables, batch


def test_values_of_the_joint_losses():
    generator, critic, params, variables, batch = real_networks()
    both = objectives.nogan(
        in_training(generator.apply), still(generator), in_training(critic.apply), still(critic),
        adversarial_weight=0.5, pixel_weight=50.0, pixel_loss=losses.mse,
    )  # fmt: skip
    variables = {**variables, objectives.TURN: jnp.array(True)}
    call = {"key": jax.random.key(0), "step": 0}
    value, aux = both["generator"](params, variables, batch, **call)
    x_sr, state = in_training(generator.apply)(params["generator"], variables["generator"], batch["x_lr"])
    logits = critic.apply({"params": params["critic"], **variables["critic"]}, x_sr)
    expected = (
        50 * losses.mse(x_sr, batch["x_hr"]).mean() + 0.5 * losses.standard_generator_loss(logits).mean()
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert not bool(aux.variables[objectives.TURN])
    jax.tree.map(np.testing.assert_allclose, aux.variables["generator"], state)
    jax.tree.map(np.testing.assert_array_equal, aux.variables["critic"], variables["critic"])

    value, aux = both["critic"](params, variables, batch, **call)
    assert bool(aux.variables[objectives.TURN]) == bool(value < 0.65)
    jax.tree.map(np.testing.assert_array_equal, aux.variables["generator"], variables["generator"])
    grads = jax.grad(
        lambda p: both["critic"]({**params, "generator": p}, variables, batch, **call)[0], allow_int=True
    )(params["generator"])
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(grads))


def test_the_critic_alone_learns_and_the_generator_stays():
    generator, critic, params, variables, batch = real_networks()
    objective = objectives.critic_alone(still(generator), in_training(critic.apply))
    frozen = {"params": params["generator"], **variables["generator"]}
    players = {"critic": Player(objective, optax.adam(1e-3))}
    start = {"critic": params["critic"]}, {"critic": variables["critic"], objectives.FROZEN: frozen}
    state = create_state(lambda key: start, players, key=jax.random.key(0))
    step = jax.jit(make_train_step(players))
    state, first = step(state, batch)
    for _ in range(60):
        state, last = step(state, batch)
    assert float(last["loss"]) < 0.5 * float(first["loss"])
    jax.tree.map(np.testing.assert_array_equal, state.variables[objectives.FROZEN], frozen)


def test_a_joint_step_of_real_networks_moves_one_of_them():
    generator, critic, params, variables, batch = real_networks()
    both = objectives.nogan(
        in_training(generator.apply),
        still(generator),
        in_training(critic.apply),
        still(critic),
    )
    players = {n: Player(o, optax.adam(1e-3), objectives.turns()[n]) for n, o in both.items()}
    for turn, mover, rest in ((False, "critic", "generator"), (True, "generator", "critic")):
        whole = {**variables, objectives.TURN: jnp.array(turn)}
        start = functools.partial(lambda key, whole: (params, whole), whole=whole)
        state = create_state(start, players, key=jax.random.key(0))
        new, metrics = jax.jit(make_train_step(players))(state, batch)
        assert float(metrics[f"{mover}/moved"]) == 1
        jax.tree.map(np.testing.assert_array_equal, new.params[rest], params[rest])
        jax.tree.map(np.testing.assert_array_equal, new.variables[rest], whole[rest])
        moved = [
            not np.allclose(a, b)
            for a, b in zip(jax.tree.leaves(new.params[mover]), jax.tree.leaves(params[mover]), strict=True)
        ]
        assert np.mean(moved) > 0.9
