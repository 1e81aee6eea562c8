"""Content and style losses: closed forms, a slow Gram matrix, gradients, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses
from vaesr.losses.features import gram_matrix


def maps(seed, shape=(2, 3, 4, 5)):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_gram_matrix_equals_the_slow_sum():
    x = np.asarray(maps(0))
    b, h, w, c = x.shape
    slow = np.zeros((b, c, c))
    for i in range(h):
        for j in range(w):
            slow += x[:, i, j, :, None].astype(np.float64) * x[:, i, j, None, :]
    np.testing.assert_allclose(gram_matrix(jnp.asarray(x)), slow / (h * w * c), rtol=1e-5, atol=1e-6)


def test_gram_matrix_does_not_see_where():
    x = maps(0)
    mixed = x.reshape(2, 12, 5)[:, np.random.default_rng(1).permutation(12)].reshape(x.shape)
    np.testing.assert_allclose(gram_matrix(mixed), gram_matrix(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.style_loss([mixed], [x]), 0, atol=1e-6)
    assert bool((losses.content_loss([mixed], [x]) > 0.1).all())


def test_content_loss_is_the_weighted_sum():
    a, b = [maps(0), maps(1, (2, 2, 2, 3))], [maps(2), maps(3, (2, 2, 2, 3))]
    expected = 2 * losses.mse_loss(a[0], b[0]) + 0.5 * losses.mse_loss(a[1], b[1])
    np.testing.assert_allclose(
        losses.content_loss(a, b, weights=(2, 0.5), distance=losses.mse_loss), expected, rtol=1e-6
    )
    np.testing.assert_allclose(losses.content_loss(a[:1], b[:1]), losses.l1_loss(a[0], b[0]))


def test_style_loss_of_constant_maps():
    """Channels constant at a and b: the Gram matrix has a b / c everywhere."""
    x, y = jnp.full((1, 4, 4, 3), 2.0), jnp.full((1, 4, 4, 3), 1.0)
    np.testing.assert_allclose(losses.style_loss([x], [y], weights=(3.0,)), 3 * (4 - 1) / 3, rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.content_loss, losses.style_loss])
def test_properties(loss):
    x, y = maps(0), maps(1)
    assert loss([x], [y]).shape == (2,)
    np.testing.assert_allclose(loss([x], [x]), 0)
    np.testing.assert_allclose(jax.jit(lambda a, b: loss([a], [b]))(x, y), loss([x], [y]), rtol=1e-6)
    assert loss([x.astype(jnp.bfloat16)], [y.astype(jnp.bfloat16)]).dtype == jnp.float32
    alone = jax.vmap(lambda a, b: loss([a[None]], [b[None]])[0])(x, y)
    np.testing.assert_allclose(alone, loss([x], [y]), rtol=1e-5)
    value = lambda a: loss([a], [y], distance=losses.mse_loss).sum()
    direction = maps(2)
    slope = float((jax.grad(value)(x) * direction).sum())
    quotient = float(value(x + 1e-2 * direction) - value(x - 1e-2 * direction)) / 2e-2
    assert slope == pytest.approx(quotient, rel=0.01)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="1 features, 2 targets and 1 weights"):
        losses.content_loss([maps(0)], [maps(0), maps(1)])
    with pytest.raises(ValueError, match="weights"):
        losses.style_loss([], [], weights=())
    with pytest.raises(ValueError, match="shape"):
        losses.content_loss([maps(0)], [maps(0, (2, 3, 4, 6))])
    with pytest.raises(ValueError, match=r"\[B, h, w, c\]"):
        gram_matrix(jnp.zeros((3, 4, 5)))
