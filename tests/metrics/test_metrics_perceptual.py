"""LPIPS and DISTS: the published values, exactness at identical images, gradients, bad input.

Equality with torch is tested in `tests/pretrained`, which reads torchvision's files.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest

import vaesr.metrics as m
from vaesr import pretrained
from vaesr.inference.cli import main
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


@pytest.mark.skipif(
    "VAESR_DOWNLOADS" not in os.environ, reason="fetches 64 MB of weights: set VAESR_DOWNLOADS=1 to allow it"
)
@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg", "dists"])
def test_the_authors_packages_values(name, tmp_path):
    if name == "dists":
        pytest.importorskip("torch")
    assert main(["convert", name, "-o", str(tmp_path / "network.npz")]) == 0
    if name == "dists":
        metric, net = m.dists, pretrained.load_dists(tmp_path / "network.npz")
    else:
        metric, net = m.lpips, pretrained.load_lpips(tmp_path / "network.npz")
    for picture in official.NAMES:
        reference = official.image(picture, "ref")
        batch = jnp.concatenate([official.image(picture, d) for d in official.DISTORTIONS])
        found = metric(jnp.broadcast_to(reference, batch.shape), batch, network=net)
        expected = [official.official(picture, d, name.replace("-", "_")) for d in official.DISTORTIONS]
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=picture)
