"""LPIPS and DISTS: the published values, exactness at identical images, gradients, bad input.

Equality with torch is tested in `tests/pretrained`, which reads torchvision's files.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest

import vaesr.metrics as m
from vaesr import pretrained
from vaesr.app.cli import main
from vaesr.models.feature_networks import AlexNet

MODEL = AlexNet()
WIDTHS = (64, 192, 384, 256, 256)


def network(kind):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 40, 40, 3)))
    params = jax.tree.map(lambda s: (rng.normal(size=s.shape) * 0.05).astype(np.float32), shapes)
    weights = lambda widths: tuple(rng.uniform(0, 1, w).astype(np.float32) for w in widths)
    if kind == "lpips":
        return m.LpipsNetwork(MODEL.apply, params, weights(WIDTHS))
    return m.DistsNetwork(MODEL.apply, params, weights((3, *WIDTHS)), weights((3, *WIDTHS)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lpips", "dists"])
def test_zero_and_finite_gradients_at_identical_and_flat_images(kind):
    metric, net = getattr(m, kind), network(kind)
    x = jax.random.uniform(jax.random.key(1), (2, 40, 44, 3))
    flat = jnp.full_like(x, 0.5)
    for a, b in ((x, x), (flat, flat), (x, flat), (flat, x), (jnp.zeros_like(x), flat)):
        value, gradient = jax.value_and_grad(lambda b, a=a: metric(a, b, network=net).sum())(b)
        assert np.isfinite(gradient).all()
        assert float(value) == 0.0 if a is b else float(value) > 0
    one = metric(x[:1], flat[:1], network=net)
    np.testing.assert_allclose(metric(x, flat, network=net)[:1], one, rtol=1e-5)


def test_bad_input():
    x = jnp.zeros((1, 40, 40, 3))
    with pytest.raises(TypeError, match="LpipsNetwork"):
        m.lpips(x, x, network=network("dists"))
    with pytest.raises(ValueError, match="31 pixels"):
        m.lpips(x[:, :20], x[:, :20], network=network("lpips"))


REAL = pytest.mark.skipif(
    "VAESR_DOWNLOADS" not in os.environ, reason="fetches 64 MB of weights: set VAESR_DOWNLOADS=1 to allow it"
)


def real_metric(name, folder):
    if name == "dists":
        pytest.importorskip("torch")
    assert main(["convert", name, "-o", str(folder / "network.npz")]) == 0
    if name == "dists":
        return functools.partial(m.dists, network=pretrained.load_dists(folder / "network.npz"))
    return functools.partial(m.lpips, network=pretrained.load_lpips(folder / "network.npz"))


@pytest.mark.slow
@REAL
@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg", "dists"])
def test_the_authors_packages_values(name, tmp_path):
    metric = real_metric(name, tmp_path)
    for picture in official.NAMES:
        reference = official.image(picture, "ref")
        batch = jnp.concatenate([official.image(picture, d) for d in official.DISTORTIONS])
        found = metric(jnp.broadcast_to(reference, batch.shape), batch)
        expected = [official.official(picture, d, name.replace("-", "_")) for d in official.DISTORTIONS]
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=picture)


@pytest.mark.slow
@REAL
@pytest.mark.parametrize("name", ["lpips-alex", "dists"])
def test_every_step_of_a_distortion_is_worse(name, tmp_path):
    """On three photographs, and ten more of VAESR_PHOTOS, as for the other metrics."""
    from test_metrics_properties import as_jpeg, blurred, crops, scaled_down, with_noise

    metric = real_metric(name, tmp_path)
    for photo, whole in crops().items():
        x = whole[64:192, 64:192]  # a network's time goes with the pixels
        for distort in (blurred, with_noise, as_jpeg, scaled_down):
            steps = [np.rint(distort(x, step)).clip(0, 255) for step in range(4)]
            batch = jnp.asarray(np.stack([x, *steps]) / 255.0, jnp.float32)
            scores = metric(jnp.broadcast_to(batch[:1], batch.shape), batch)
            assert scores[0] == 0 and (np.diff(scores) > 0).all(), (photo, distort.__name__, scores)
