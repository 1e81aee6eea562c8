"""Metrics as losses: against their definition, gradients where others give NaN, and learning something."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr import losses, metrics
from vaesr.models.feature_networks import AlexNet


def small_network(kind):
    model, rng = AlexNet(), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 40, 40, 3)))
    params = jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.05).astype(np.float32), shapes)
    weights = lambda widths: tuple(rng.uniform(0, 1, w).astype(np.float32) for w in widths)
    widths = (64, 192, 384, 256, 256)
    if kind == "lpips":
        return metrics.LpipsNetwork(model.apply, params, weights(widths))
    return metrics.DistsNetwork(model.apply, params, weights((3, *widths)), weights((3, *widths)))


LOSSES = {
    "ssim_loss": (losses.ssim_loss, 40),
    "ms_ssim_loss": (losses.ms_ssim_loss, 164),
    "ms_ssim_l1_loss": (losses.ms_ssim_l1_loss, 40),
    "lpips_loss": (lambda x, y: losses.lpips_loss(x, y, network=small_network("lpips")), 40),
    "dists_loss": (lambda x, y: losses.dists_loss(x, y, network=small_network("dists")), 40),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LOSSES))
def test_zero_at_equal_images_and_finite_gradients(name):
    loss, side = LOSSES[name]
    x = jax.random.uniform(jax.random.key(0), (2, side, side, 3))
    flat = jnp.full_like(x, 0.5)
    slope = jax.jit(jax.value_and_grad(lambda p, t: loss(p, t).sum()))
    for prediction, target in ((x, x), (flat, flat), (flat, x), (x, flat), (0 * x, 0 * x), (0 * x, x)):
        value, gradient = slope(prediction, target)
        assert np.isfinite(gradient).all()
        if prediction is target:
            assert abs(float(value)) < 1e-6
    assert loss(x, flat).shape == (2,) and float(loss(x, flat).min()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssim_loss", "ms_ssim_l1_loss"])
def test_an_image_is_learned_by_the_loss_alone(name):
    data = pytest.importorskip("skimage.data")
    target = jnp.asarray(data.astronaut()[:64, 180:244][None] / 255.0, jnp.float32)
    loss, optimiser = LOSSES[name][0], optax.adam(0.02)

    def step(carry, _):
        image, state = carry
        updates, state = optimiser.update(jax.grad(lambda i: loss(i, target).sum())(image), state)
        return (optax.apply_updates(image, updates), state), None

    start = jnp.full_like(target, 0.5)
    (image, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=300))((start, optimiser.init(start)))
    # Where every window has its whole support.
    inner = np.s_[:, 24:40, 24:40]
    assert float(metrics.ssim(target[inner], start[inner])[0]) < 0.5
    assert float(metrics.ssim(target[inner], image[inner])[0]) > 0.95


@pytest.mark.slow
def test_mix_is_the_papers_on_its_patches():
    """At the centre of 31x31 patches, with windows of the patch's size, in float64."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2, 31, 31, 3))
    y = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1)
    ticks = np.arange(-15, 16)
    windows = [np.exp(-(ticks[:, None] ** 2 + ticks**2) / (2 * s * s)) for s in (0.5, 1, 2, 4, 8)]
    windows = [(w / w.sum())[None, :, :, None] for w in windows]
    product = 1.0
    for w in windows:
        mu, nu = (w * x).sum((1, 2)), (w * y).sum((1, 2))
        vx, vy = (w * x * x).sum((1, 2)) - mu**2, (w * y * y).sum((1, 2)) - nu**2
        cov = (w * x * y).sum((1, 2)) - mu * nu
        product = product * (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
    luminance = (2 * mu * nu + 0.01**2) / (mu**2 + nu**2 + 0.01**2)
    absolute = (windows[-1] * np.abs(x - y)).sum((1, 2))
    expected = (0.84 * (1 - luminance * product) + 0.16 * absolute).mean(-1)
    found = losses.ms_ssim_l1_loss(jnp.asarray(y, jnp.float32), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Larger ones: the mean over the positions of a 49-pixel window.
    assert np.isfinite(losses.ms_ssim_l1_loss(jnp.zeros((1, 60, 52, 1)), jnp.ones((1, 60, 52, 1)))).all()
    with pytest.raises(ValueError, match="alpha"):
        losses.ms_ssim_l1_loss(jnp.zeros((1, 60, 52, 1)), jnp.ones((1, 60, 52, 1)), alpha=2)
