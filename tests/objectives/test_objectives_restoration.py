"""Restoration by pixels and features: values, metrics, and one scale per mini-batch for MDSR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled

from vaesr import losses, objectives
from vaesr.imaging.colour import IMAGENET_DEVIATION, IMAGENET_MEAN
from vaesr.losses.pixel import charbonnier_loss
from vaesr.models import srresnet
from vaesr.models.edsr import EDSR
from vaesr.models.feature_networks import VGG
from vaesr.models.mdsr import MDSR
from vaesr.objectives import in_training, multi_scale_pixel, pixel


def enlarge(variables, x_lr, scale=2):
    gain = variables["params"]["gain"]
    return gain * jnp.repeat(jnp.repeat(x_lr, scale, axis=1), scale, axis=2)


@pytest.fixture
def batch(key):
    x = jax.random.uniform(key, (2, 3, 4, 3))
    one = {"params": {"gain": jnp.float32(1.0)}}
    pairs = {f"x_lr_{s}": x for s in (2, 3, 4)} | {f"x_hr_{s}": enlarge(one, x, s) for s in (2, 3, 4)}
    return pairs | {"x_lr": x, "x_hr": enlarge(one, x), "position": jnp.arange(2)}


def test_pixel_value_and_metrics(batch, key):
    objective = pixel(enlarge, player="net")
    params = {"net": {"gain": jnp.float32(0.9)}}
    loss, aux = objective(params, {"kept": 1}, batch, key=key, step=jnp.int32(0))
    error = 0.1 * np.asarray(batch["x_hr"])
    np.testing.assert_allclose(loss, 255 * error.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["l1_255"], loss, rtol=1e-6)
    expected = -10 * np.log10((error**2).mean((1, 2, 3))).mean()
    np.testing.assert_allclose(aux.metrics["psnr_db"], expected, rtol=1e-5)
    assert aux.variables == {"kept": 1}
    assert loss.dtype == jnp.float32 and loss.shape == ()
    assert all(m.dtype == jnp.float32 and m.shape == () for m in aux.metrics.values())


def test_pixel_at_a_perfect_output_is_finite(batch, key):
    def value(gain):
        return pixel(enlarge, player="net")({"net": {"gain": gain}}, {}, batch, key=key, step=0)

    (loss, aux), grad = jax.value_and_grad(value, has_aux=True)(jnp.float32(1.0))
    assert float(loss) == 0.0
    np.testing.assert_allclose(aux.metrics["psnr_db"], 100.0, rtol=1e-6)
    assert bool(jnp.isfinite(grad))


def test_pixel_takes_another_loss_and_checks_names(batch, key):
    params = {"net": {"gain": jnp.float32(1.0)}}
    objective = pixel(enlarge, player="net", loss=functools.partial(charbonnier_loss, epsilon=0.1))
    loss, _ = objective(params, {}, batch, key=key, step=0)
    np.testing.assert_allclose(loss, 25.5, rtol=1e-5)
    with pytest.raises(ValueError, match="no player 'edsr'"):
        pixel(enlarge)(params, {}, batch, key=key, step=0)
    with pytest.raises(ValueError, match="expected the same"):
        objective(params, {}, batch | {"x_hr": batch["x_lr"]}, key=key, step=0)


def test_a_few_steps_of_edsr_lower_the_loss(batch, key):
    model = EDSR(channels=4, blocks=1)
    params = {"edsr": model.init(key, batch["x_lr"])["params"]}
    objective = pixel(model.apply)

    @jax.jit
    def step(params):
        (loss, _), grads = jax.value_and_grad(
            lambda p: objective(p, {}, batch, key=key, step=0), has_aux=True
        )(params)
        return jax.tree.map(lambda p, g: p - 1e-5 * g, params, grads), loss

    losses = []
    for _ in range(5):
        params, loss = step(params)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


def test_multi_scale_draws_one_scale_a_step_from_the_key(batch):
    objective = multi_scale_pixel(enlarge, player="net")
    params = {"net": {"gain": jnp.float32(0.9)}}
    run = jax.jit(lambda key: objective(params, {}, batch, key=key, step=0))
    scales = []
    for seed in range(12):
        loss, aux = run(jax.random.key(seed))
        scale = int(aux.metrics["scale"])
        scales.append(scale)
        np.testing.assert_allclose(loss, 25.5 * batch[f"x_hr_{scale}"].mean(), rtol=1e-5)
    assert set(scales) == {2, 3, 4}
    assert int(run(jax.random.key(3))[1].metrics["scale"]) == scales[3]


def test_multi_scale_gives_zero_gradients_to_the_other_scales(batch):
    model = MDSR(channels=3, blocks=1)
    params = {"mdsr": model.init(jax.random.key(0), batch["x_lr"])["params"]}
    objective = multi_scale_pixel(model.apply)
    grads, aux = jax.jit(
        jax.grad(lambda p: objective(p, {}, batch, key=jax.random.key(5), step=0), has_aux=True)
    )(params)
    drawn = int(aux.metrics["scale"])
    for s in (2, 3, 4):
        largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["mdsr"][f"upsampler_x{s}"]))
        assert (largest > 0) == (s == drawn)
    assert float(jnp.abs(grads["mdsr"]["head"]["kernel"]).max()) > 0


def test_multi_scale_checks(batch, key):
    with pytest.raises(ValueError, match="scales is empty"):
        multi_scale_pixel(enlarge, scales=())
    short = {n: v for n, v in batch.items() if n != "x_hr_3"}
    with pytest.raises(ValueError, match="x_hr_3"):
        multi_scale_pixel(enlarge, player="net")(
            {"net": {"gain": jnp.float32(1)}}, {}, short, key=key, step=0
        )


# --- with features --------------------------------------------------------------------------------------

TRUNK = VGG((1, 1), ("conv2_1",), mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION)
GENERATOR = srresnet.SRResNet(scale=2, channels=8, blocks=1)


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    return {f"x_{k}": jnp.asarray(rng.random((4, n, n, 3)), jnp.float32) for k, n in (("lr", 8), ("hr", 16))}


def test_restoration_values_and_metrics(photos):
    tree = filled(GENERATOR, photos["x_lr"])
    params = {"generator": tree.pop("params")}
    variables = {"generator": tree, "features": filled(TRUNK, photos["x_hr"], seed=3)}
    content = objectives.feature_content(TRUNK.apply, distance=losses.mse_loss)
    network = in_training(GENERATOR.apply)
    objective = objectives.restoration(
        network,
        pixel_loss=losses.mse_loss,
        pixel_weight=4.0,
        content=content,
        content_weight=0.5,
    )
    loss, aux = objective(params, variables, photos, key=jax.random.key(0), step=0)
    x_sr, state = network(params["generator"], variables["generator"], photos["x_lr"])
    pixels = losses.mse_loss(x_sr, photos["x_hr"])
    features = [TRUNK.apply(variables["features"], x)[0] for x in (x_sr, photos["x_hr"])]
    expected = 4 * pixels.mean() + 0.5 * losses.mse_loss(*features).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["pixel"], pixels.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["psnr_db"], (-10 * jnp.log10(pixels)).mean(), rtol=1e-5)
    for new, same in zip(jax.tree.leaves(aux.variables["generator"]), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(new, same, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="nothing is left"):
        objectives.restoration(network, pixel_weight=0)


def test_style_weights_add_gram_matrices(photos):
    x, y = photos["x_hr"], photos["x_hr"][::-1]
    variables = filled(TRUNK, x, seed=3)
    features = [TRUNK.apply(variables, image) for image in (x, y)]
    content = objectives.feature_content(TRUNK.apply, weights=(2.0,), style_weights=(3.0,))
    expected = 2 * losses.content_loss(*features) + 3 * losses.style_loss(*features)
    np.testing.assert_allclose(content(variables, x, y), expected, rtol=1e-5)
