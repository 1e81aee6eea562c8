"""Restoration against a discriminator: parity with torch, one forward pass for two players; NoGAN's turns."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from filled_variables import filled

from vaesr import losses, objectives
from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.models import discriminators, rrdb, srresnet
from vaesr.models.critic import Critic
from vaesr.models.feature_networks import VGG
from vaesr.models.unet import UNet
from vaesr.objectives import in_training
from vaesr.training import (
    Player,
    batch_sharding,
    compile_step,
    create_state,
    make_mesh,
    make_train_step,
    state_shardings,
)

TRUNK = VGG((1, 1), ("conv2_1",), mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION)
SIDE = 16


def make(kind):
    """Generator, discriminator, settings as in the paper, all variables and a batch of two."""
    if kind == "srgan":
        generator = srresnet.SRResNet(scale=2, channels=8, blocks=1)
        discriminator = discriminators.SRGANDiscriminator(channels=4, hidden=8, stages=2)
        settings = {
            "loss": losses.ADVERSARIAL["standard"], "adversarial_weight": 1e-3, "pixel_weight": 0.0,
            "content_weight": 1 / 12.75**2,
            "content": objectives.feature_content(TRUNK.apply, distance=losses.mse_loss),
        }  # fmt: skip
    else:
        generator = rrdb.RRDBNet(scale=2, channels=8, growth=4, blocks=1)
        discriminator = discriminators.VGGDiscriminator(channels=4, hidden=8, stages=2)
        settings = {"content": objectives.feature_content(TRUNK.apply)}
    rng = np.random.default_rng(0)
    x_lr = jnp.asarray(rng.random((4, SIDE // 2, SIDE // 2, 3)), jnp.float32)
    x_hr = jnp.asarray(rng.random((4, SIDE, SIDE, 3)), jnp.float32)
    trees = {"generator": filled(generator, x_lr), "discriminator": filled(discriminator, x_hr, seed=2)}
    params = {name: tree["params"] for name, tree in trees.items()}
    variables = {n: {k: v for k, v in tree.items() if k != "params"} for n, tree in trees.items()}
    variables["features"] = filled(TRUNK, x_hr, seed=3)
    return generator, discriminator, settings, params, variables, {"x_lr": x_lr, "x_hr": x_hr}


def both(kind):
    generator, discriminator, settings, params, variables, batch = make(kind)
    return (
        objectives.restoration_gan(
            in_training(generator.apply), in_training(discriminator.apply), **settings
        ),
        params,
        variables,
        batch,
    )


def gradients(players, params, variables, batch):
    """Losses, gradients and metrics of both players, as a training step has them."""
    found = {}
    for name, objective in players.items():

        def loss(own, name=name, objective=objective, batch=batch):
            return objective({**params, name: own}, variables, batch, key=jax.random.key(0), step=0)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params[name])
        found[name] = value, grads, aux
        batch = {**batch, **aux.shared}
    return found


def torch_step(kind, params, variables, batch):
    """One step of the method, written the plain way: every network runs wherever the formulas name it."""
    torch_sr = pytest.importorskip("benchmarks.peers.torch_sr", reason="torch is not installed")
    import torch

    F = torch.nn.functional
    if kind == "srgan":
        generator = torch_sr.SRResNet(2, 8, 1)
        discriminator = torch_sr.SRGANDiscriminator(4, 8, 2, SIDE)
    else:
        generator = torch_sr.RRDBNet(2, 8, 4, 1)
        discriminator = torch_sr.VGGDiscriminator(4, 8, 2)
    trunk = torch_sr.VGG((1, 1), "conv2_1")
    torch_sr.load(generator, params["generator"])
    torch_sr.load(discriminator, params["discriminator"])
    torch_sr.load(trunk, variables["features"]["params"])
    x_lr, x_hr = (torch.from_numpy(np.array(batch[k]).transpose(0, 3, 1, 2)) for k in ("x_lr", "x_hr"))
    bce = F.binary_cross_entropy_with_logits

    x_sr = generator(x_lr)
    fake = discriminator(x_sr)
    if kind == "srgan":
        content = F.mse_loss(trunk(x_sr), trunk(x_hr).detach()) / 12.75**2
        of_generator = content + 1e-3 * bce(fake, torch.ones_like(fake))
    else:
        real = discriminator(x_hr).detach()
        relativistic = bce(real - fake.mean(), torch.zeros_like(real)) + bce(
            fake - real.mean(), torch.ones_like(fake)
        )
        content = F.l1_loss(trunk(x_sr), trunk(x_hr).detach())
        of_generator = content + 5e-3 * relativistic / 2 + 1e-2 * F.l1_loss(x_sr, x_hr)
    of_generator.backward()
    discriminator.zero_grad()
    real, fake = discriminator(x_hr), discriminator(x_sr.detach())
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    if kind == "srgan":
        of_discriminator = bce(real, one) + bce(fake, zero)
    else:
        of_discriminator = (bce(real - fake.mean(), one) + bce(fake - real.mean(), zero)) / 2
    of_discriminator.backward()
    return {
        "generator": (float(of_generator.detach()), torch_sr.read_gradients(generator)),
        "discriminator": (float(of_discriminator.detach()), torch_sr.read_gradients(discriminator)),
    }, torch_sr.flatten


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["srgan", "esrgan"])
def test_step_equals_torch(kind):
    players, params, variables, batch = both(kind)
    theirs, flatten = torch_step(kind, params, variables, batch)
    ours = jax.jit(functools.partial(_losses_and_gradients, players))(params, variables, batch)
    for name, (loss, grads) in theirs.items():
        np.testing.assert_allclose(ours[name][0], loss, rtol=1e-4)
        largest = max(float(np.abs(g).max()) for g in grads.values())
        mine = flatten(ours[name][1])
        assert set(mine) == set(grads)
        for path, grad in grads.items():
            scale = max(float(np.abs(grad).max()), 1e-2 * largest)
            np.testing.assert_allclose(
                mine[path].reshape(grad.shape), grad, atol=1e-4 * scale, err_msg=f"{name} {path}"
            )


def _losses_and_gradients(players, params, variables, batch):
    return {n: found[:2] for n, found in gradients(players, params, variables, batch).items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["srgan", "esrgan"])
def test_discriminator_gradient_is_that_of_its_own_pass(kind):
    """What is pulled back from the generator's pass equals the gradient of a fresh one."""
    players, params, variables, batch = both(kind)
    _, discriminator, settings, *_ = make(kind)
    loss = settings.get("loss", losses.ADVERSARIAL["relativistic_average"])
    found = gradients(players, params, variables, batch)
    x_sr = found["generator"][2].shared["x_sr"]

    def plain(own):
        real, state = in_training(discriminator.apply)(own, variables["discriminator"], batch["x_hr"])
        fake, _ = in_training(discriminator.apply)(own, state, x_sr)
        return loss.discriminator(real, fake).mean()

    value, grads = jax.value_and_grad(plain)(params["discriminator"])
    np.testing.assert_allclose(found["discriminator"][0], value, rtol=1e-5)
    for ours, expected in zip(
        jax.tree.leaves(found["discriminator"][1]), jax.tree.leaves(grads), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def _state(players, params, variables):
    optimizers = {name: Player(objective, optax.sgd(0.1)) for name, objective in players.items()}
    state = create_state(lambda key: (params, variables), optimizers, key=jax.random.key(0))
    return optimizers, state


def count_convolutions(text):
    return text.count("stablehlo.convolution(")


@pytest.mark.slow
def test_networks_run_once_a_step():
    """Counted in the compiled step: each network's convolutions forward once per image batch."""
    generator, discriminator, settings, params, variables, batch = make("esrgan")
    generator = generator.clone(conv_form="direct")
    # 15 dense and 6 other convolutions; the trunk's 2; the discriminator's 4, twice.
    g, t, d = 21, 2, 4

    def step_convolutions(players):
        optimizers, state = _state(players, params, variables)
        return count_convolutions(jax.jit(make_train_step(optimizers)).lower(state, batch).as_text())

    gan = objectives.restoration_gan(
        in_training(generator.apply), in_training(discriminator.apply), **settings
    )
    alone = {"generator": objectives.restoration(in_training(generator.apply), content=settings["content"])}
    only = {"generator": params["generator"]}
    optimizers, state = _state(alone, only, variables)
    text = jax.jit(make_train_step(optimizers)).lower(state, batch).as_text()
    # Forward; by input but for the first; by kernel. The trunk: targets, features, by input.
    generators = g + (g - 1) + g + 3 * t
    assert count_convolutions(text) == generators
    # Real: forward, by kernel, by input but for the images. Fake: forward; by input for the generator down
    # to the image; by input but for the image and by kernel for the discriminator.
    discriminators_ = (d + d + (d - 1)) + (d + d + (d - 1) + d)
    assert step_convolutions(gan) == generators + discriminators_


@pytest.mark.slow
def test_whole_state_is_donated_and_compiled_once():
    players, params, variables, batch = both("srgan")
    optimizers, state = _state(players, params, variables)
    mesh = make_mesh(devices=jax.devices()[:1])
    step = compile_step(make_train_step(optimizers), mesh, state=state)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert step.lower(state, batch).compile().memory_analysis().alias_size_in_bytes == size
    state = jax.device_put(jax.tree.map(jnp.copy, state), state_shardings(state, mesh))
    batch = jax.device_put(batch, batch_sharding(mesh))
    for _ in range(5):
        state, metrics = step(state, batch)
    assert step._cache_size() == 1
    assert all(bool(jnp.isfinite(value).all()) for value in metrics.values())


@pytest.mark.slow
def test_sharded_step_equals_one_device():
    """Batch statistics and relativistic means are those of the global batch."""
    results = []
    for devices in (1, 4):
        players, params, variables, batch = both("esrgan")
        optimizers, state = _state(players, params, variables)
        mesh = make_mesh(devices=jax.devices()[:devices])
        step = compile_step(make_train_step(optimizers), mesh, state=state)
        state, metrics = step(jax.tree.map(jnp.copy, state), batch)
        results.append(jax.device_get((state.params, state.variables, metrics)))
    for one, four in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(one, four, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_pmap_step_equals_one_device():
    """Batch statistics and relativistic means are taken over the devices by name."""
    generator, discriminator, settings, params, variables, batch = make("esrgan")
    results = []
    for parallel, axis_name in (("jit", None), ("pmap", "data")):
        discriminate = in_training(discriminator.clone(axis_name=axis_name).apply)
        players = objectives.restoration_gan(
            in_training(generator.apply), discriminate, axis_name=axis_name, **settings
        )
        optimizers, state = _state(players, params, variables)
        mesh = make_mesh(devices=jax.devices()[: 1 if parallel == "jit" else 4])
        step = compile_step(make_train_step(optimizers), mesh, state=state, parallel=parallel)
        state, metrics = step(jax.tree.map(jnp.copy, state), batch)
        results.append(jax.device_get((state.params, state.variables, metrics["generator/loss"])))
    for one, four in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(one, four, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_accumulated_micro_batches_share_too():
    """Without batch statistics, two micro-batches of a standard GAN give the gradient of the whole batch."""
    generator, _, _, params, _, batch = make("esrgan")
    discriminator = discriminators.UNetDiscriminator(channels=4)
    tree = filled(discriminator, batch["x_hr"])
    params = {**params, "discriminator": tree["params"]}
    # The spectral vectors stay what they are: every pass has the same weights.
    fixed = tree["spectral"]

    def fixed_discriminator(own, _, images):
        return discriminator.apply({"params": own, "spectral": fixed}, images), {}

    players = objectives.restoration_gan(
        in_training(generator.apply), fixed_discriminator, loss=losses.ADVERSARIAL["standard"]
    )
    optimizers, state = _state(players, params, {})
    whole, _ = jax.jit(make_train_step(optimizers))(state, batch)
    parts, _ = jax.jit(make_train_step(optimizers, accumulate=2))(state, batch)
    for one, two in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_discriminator_learns_to_tell_and_the_generator_to_deceive():
    """On one batch: the discriminator alone separates it; the generator alone raises the fakes' logits."""
    generator, discriminator, _, params, variables, batch = make("srgan")
    players = objectives.restoration_gan(
        in_training(generator.apply), in_training(discriminator.apply),
        loss=losses.ADVERSARIAL["standard"], adversarial_weight=1.0, pixel_weight=0.0,
    )  # fmt: skip
    for name, metric, better in (("discriminator", "loss", -1), ("generator", "adversarial", -1)):
        optimizers = {n: Player(o, optax.sgd(0.05 if n == name else 0.0)) for n, o in players.items()}
        state = create_state(lambda key: (params, variables), optimizers, key=jax.random.key(0))
        step = jax.jit(make_train_step(optimizers))
        state, first = step(state, batch)
        for _ in range(15):
            state, last = step(state, batch)
        name_of = f"{name}/{metric}"
        assert better * float(last[name_of] - first[name_of]) > 0.05


# --- NoGAN: the switch rule step by step, who is in training, values, and the critic alone ------------------

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
    generator = UNet(blocks=(1, 1, 1, 1), channels=4, conv_form="loop")
    critic = Critic(channels=4, blocks=2, conv_form="loop")
    rng = np.random.default_rng(0)
    batch = {k: jnp.asarray(rng.random((2, 32, 32, 3)), jnp.float32) for k in ("x_lr", "x_hr")}
    trees = {"generator": filled(generator, batch["x_lr"]), "critic": filled(critic, batch["x_hr"], seed=2)}
    params = {name: tree["params"] for name, tree in trees.items()}
    variables = {n: {k: v for k, v in tree.items() if k != "params"} for n, tree in trees.items()}
    return generator, critic, params, variables, batch


@pytest.mark.slow
def test_values_of_the_joint_losses():
    generator, critic, params, variables, batch = real_networks()
    both = objectives.nogan(
        in_training(generator.apply), still(generator), in_training(critic.apply), still(critic),
        adversarial_weight=0.5, pixel_weight=50.0, pixel_loss=losses.mse_loss,
    )  # fmt: skip
    variables = {**variables, objectives.TURN: jnp.array(True)}
    call = {"key": jax.random.key(0), "step": 0}
    value, aux = both["generator"](params, variables, batch, **call)
    x_sr, state = in_training(generator.apply)(params["generator"], variables["generator"], batch["x_lr"])
    logits = critic.apply({"params": params["critic"], **variables["critic"]}, x_sr)
    expected = (
        50 * losses.mse_loss(x_sr, batch["x_hr"]).mean() + 0.5 * losses.standard_generator_loss(logits).mean()
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


@pytest.mark.slow
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


@pytest.mark.slow
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
