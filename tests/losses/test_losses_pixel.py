"""Pixel losses against numpy, their checks and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.losses.pixel import charbonnier_loss, l1_loss, mse_loss

LOSSES = [l1_loss, mse_loss, charbonnier_loss]


@pytest.fixture
def pair(key):
    a, b = jax.random.split(key)
    return jax.random.uniform(a, (3, 4, 5, 2)), jax.random.uniform(b, (3, 4, 5, 2))


def test_against_numpy(pair):
    x, y = (np.asarray(a, np.float64) for a in pair)
    axes = (1, 2, 3)
    np.testing.assert_allclose(l1_loss(*pair), np.abs(x - y).mean(axes), rtol=1e-5)
    np.testing.assert_allclose(mse_loss(*pair), ((x - y) ** 2).mean(axes), rtol=1e-5)
    np.testing.assert_allclose(
        charbonnier_loss(*pair, epsilon=0.1), np.sqrt((x - y) ** 2 + 0.01).mean(axes), rtol=1e-5
    )


def test_charbonnier_at_and_far_from_zero(pair):
    np.testing.assert_allclose(charbonnier_loss(pair[0], pair[0], epsilon=0.25), np.full(3, 0.25), rtol=1e-6)
    far = 100.0 * jnp.ones((1, 2))
    np.testing.assert_allclose(
        charbonnier_loss(far, jnp.zeros((1, 2))), l1_loss(far, jnp.zeros((1, 2))), rtol=1e-6
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_jit_batch_of_one_and_dtype(loss, pair):
    whole = loss(*pair)
    assert whole.shape == (3,)
    np.testing.assert_allclose(jax.jit(loss)(*pair), whole, rtol=1e-6)
    np.testing.assert_allclose(loss(pair[0][1:2], pair[1][1:2]), whole[1:2], rtol=1e-6)
    for dtype in (jnp.float16, jnp.bfloat16):
        low = loss(pair[0].astype(dtype), pair[1].astype(dtype))
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, whole, rtol=0.02)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_finite_and_right(loss, pair):
    x, y = pair
    grad = jax.grad(lambda a: loss(a, y).sum())(x)
    assert bool(jnp.isfinite(jax.grad(lambda a: loss(a, x).sum())(x)).all())
    direction = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    step = 1e-3
    numeric = (loss(x + step * direction, y).sum() - loss(x - step * direction, y).sum()) / (2 * step)
    np.testing.assert_allclose((grad * direction).sum(), numeric, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_shape_mismatch_names_both_shapes(loss):
    with pytest.raises(ValueError, match=r"\(2, 3, 3, 1\) and target \(2, 3, 4, 1\)"):
        loss(jnp.zeros((2, 3, 3, 1)), jnp.zeros((2, 3, 4, 1)))
    with pytest.raises(ValueError, match="at least two axes"):
        loss(jnp.zeros(3), jnp.zeros(3))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_charbonnier_refuses_epsilon(epsilon):
    with pytest.raises(ValueError, match="epsilon is"):
        charbonnier_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)), epsilon=epsilon)
