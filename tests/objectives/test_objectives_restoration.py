"""Restoration with features and discriminators: parity with torch, one forward pass for two players."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.test_models_sr import filled
from vaesr import losses, objectives
from vaesr.models import discriminators, rrdb, srresnet
from vaesr.models.feature_networks import IMAGENET_DEVIATION, IMAGENET_MEAN, VGG
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
        judge = discriminators.SRGANDiscriminator(channels=4, hidden=8, stages=2)
        settings = {
            "loss": losses.ADVERSARIAL["standard"], "adversarial_weight": 1e-3, "pixel_weight": 0.0,
            "content_weight": 1 / 12.75**2,
            "content": objectives.feature_content(TRUNK.apply, distance=losses.mse),
        }  # fmt: skip
    else:
        generator = rrdb.RRDBNet(scale=2, channels=8, growth=4, blocks=1)
        judge = discriminators.VGGDiscriminator(channels=4, hidden=8, stages=2)
        settings = {"content": objectives.feature_content(TRUNK.apply)}
    rng = np.random.default_rng(0)
    x_lr = jnp.asarray(rng.random((4, SIDE // 2, SIDE // 2, 3)), jnp.float32)
    x_hr = jnp.asarray(rng.random((4, SIDE, SIDE, 3)), jnp.float32)
    trees = {"generator": filled(generator, x_lr), "discriminator": filled(judge, x_hr, seed=2)}
    params = {name: tree["params"] for name, tree in trees.items()}
    variables = {n: {k: v for k, v in tree.items() if k != "params"} for n, tree in trees.items()}
    variables["features"] = filled(TRUNK, x_hr, seed=3)
    return generator, judge, settings, params, variables, {"x_lr": x_lr, "x_hr": x_hr}


def both(kind):
    generator, judge, settings, params, variables, batch = make(kind)
    return (
        objectives.restoration_gan(in_training(generator.apply), in_training(judge.apply), **settings),
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
        judge = torch_sr.SRGANDiscriminator(4, 8, 2, SIDE)
    else:
        generator = torch_sr.RRDBNet(2, 8, 4, 1)
        judge = torch_sr.VGGDiscriminator(4, 8, 2)
    trunk = torch_sr.VGG((1, 1), "conv2_1")
    torch_sr.load(generator, params["generator"])
    torch_sr.load(judge, params["discriminator"])
    torch_sr.load(trunk, variables["features"]["params"])
    x_lr, x_hr = (torch.from_numpy(np.array(batch[k]).transpose(0, 3, 1, 2)) for k in ("x_lr", "x_hr"))
    bce = F.binary_cross_entropy_with_logits

    x_sr = generator(x_lr)
    fake = judge(x_sr)
    if kind == "srgan":
        content = F.mse_loss(trunk(x_sr), trunk(x_hr).detach()) / 12.75**2
        of_generator = content + 1e-3 * bce(fake, torch.ones_like(fake))
    else:
        real = judge(x_hr).detach()
        relativistic = bce(real - fake.mean(), torch.zeros_like(real)) + bce(
            fake - real.mean(), torch.ones_like(fake)
        )
        content = F.l1_loss(trunk(x_sr), trunk(x_hr).detach())
        of_generator = content + 5e-3 * relativistic / 2 + 1e-2 * F.l1_loss(x_sr, x_hr)
    of_generator.backward()
    judge.zero_grad()
    real, fake = judge(x_hr), judge(x_sr.detach())
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    if kind == "srgan":
        of_judge = bce(real, one) + bce(fake, zero)
    else:
        of_judge = (bce(real - fake.mean(), one) + bce(fake - real.mean(), zero)) / 2
    of_judge.backward()
    return {
        "generator": (float(of_generator.detach()), torch_sr.read_gradients(generator)),
        "discriminator": (float(of_judge.detach()), torch_sr.read_gradients(judge)),
    }, torch_sr.flatten


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


@pytest.mark.parametrize("kind", ["srgan", "esrgan"])
def test_discriminator_gradient_is_that_of_its_own_pass(kind):
    """What is pulled back from the generator's pass equals the gradient of a fresh one."""
    players, params, variables, batch = both(kind)
    _, judge, settings, *_ = make(kind)
    loss = settings.get("loss", losses.ADVERSARIAL["relativistic_average"])
    found = gradients(players, params, variables, batch)
    x_sr = found["generator"][2].shared["x_sr"]

    def plain(own):
        real, state = in_training(judge.apply)(own, variables["discriminator"], batch["x_hr"])
        fake, _ = in_training(judge.apply)(own, state, x_sr)
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


def test_networks_run_once_a_step():
    """Counted in the compiled step: each network's convolutions forward once per image batch."""
    generator, judge, settings, params, variables, batch = make("esrgan")
    generator = generator.clone(conv_form="direct")
    # 15 dense and 6 other convolutions; the trunk's 2; the discriminator's 4, twice.
    g, t, d = 21, 2, 4

    def step_convolutions(players):
        optimizers, state = _state(players, params, variables)
        return count_convolutions(jax.jit(make_train_step(optimizers)).lower(state, batch).as_text())

    gan = objectives.restoration_gan(in_training(generator.apply), in_training(judge.apply), **settings)
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


def test_pmap_step_equals_one_device():
    """Batch statistics and relativistic means are taken over the devices by name."""
    generator, judge, settings, params, variables, batch = make("esrgan")
    results = []
    for parallel, axis_name in (("jit", None), ("pmap", "data")):
        judging = in_training(judge.clone(axis_name=axis_name).apply)
        players = objectives.restoration_gan(
            in_training(generator.apply), judging, axis_name=axis_name, **settings
        )
        optimizers, state = _state(players, params, variables)
        mesh = make_mesh(devices=jax.devices()[: 1 if parallel == "jit" else 4])
        step = compile_step(make_train_step(optimizers), mesh, state=state, parallel=parallel)
        state, metrics = step(jax.tree.map(jnp.copy, state), batch)
        results.append(jax.device_get((state.params, state.variables, metrics["generator/loss"])))
    for one, four in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(one, four, rtol=2e-3, atol=2e-5)


def test_accumulated_micro_batches_share_too():
    """Without batch statistics, two micro-batches of a standard GAN give the gradient of the whole batch."""
    generator, _, _, params, _, batch = make("esrgan")
    judge = discriminators.UNetDiscriminator(channels=4)
    tree = filled(judge, batch["x_hr"])
    params = {**params, "discriminator": tree["params"]}
    # The spectral vectors stay what they are: every pass has the same weights.
    fixed = tree["spectral"]

    def opinion(own, _, images):
        return judge.apply({"params": own, "spectral": fixed}, images), {}

    players = objectives.restoration_gan(
        in_training(generator.apply), opinion, loss=losses.ADVERSARIAL["standard"]
    )
    optimizers, state = _state(players, params, {})
    whole, _ = jax.jit(make_train_step(optimizers))(state, batch)
    parts, _ = jax.jit(make_train_step(optimizers, accumulate=2))(state, batch)
    for one, two in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_restoration_values_and_metrics():
    generator, _, settings, params, variables, batch = make("srgan")
    content = settings["content"]
    objective = objectives.restoration(
        in_training(generator.apply),
        pixel_loss=losses.mse,
        pixel_weight=4.0,
        content=content,
        content_weight=0.5,
    )
    loss, aux = objective(params, variables, batch, key=jax.random.key(0), step=0)
    x_sr, state = in_training(generator.apply)(params["generator"], variables["generator"], batch["x_lr"])
    pixels = losses.mse(x_sr, batch["x_hr"])
    features = [TRUNK.apply(variables["features"], x)[0] for x in (x_sr, batch["x_hr"])]
    expected = 4 * pixels.mean() + 0.5 * losses.mse(*features).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["pixel"], pixels.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["psnr_db"], (-10 * jnp.log10(pixels)).mean(), rtol=1e-5)
    for new, same in zip(jax.tree.leaves(aux.variables["generator"]), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(new, same, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="nothing is left"):
        objectives.restoration(in_training(generator.apply), pixel_weight=0)


def test_style_weights_add_gram_matrices():
    _, _, _, _, variables, batch = make("srgan")
    x, y = batch["x_hr"], batch["x_hr"][::-1]
    features = [TRUNK.apply(variables["features"], image) for image in (x, y)]
    content = objectives.feature_content(TRUNK.apply, weights=(2.0,), style_weights=(3.0,))
    expected = 2 * losses.content_loss(*features) + 3 * losses.style_loss(*features)
    np.testing.assert_allclose(content(variables["features"], x, y), expected, rtol=1e-5)


def test_discriminator_learns_to_tell_and_the_generator_to_deceive():
    """On one batch: the discriminator alone separates it; the generator alone raises the fakes' logits."""
    generator, judge, _, params, variables, batch = make("srgan")
    players = objectives.restoration_gan(
        in_training(generator.apply), in_training(judge.apply),
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
