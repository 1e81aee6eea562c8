"""GAN losses: closed forms at known logits, symmetry, gradients; torch's formulas on random logits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses

LN2 = math.log(2)
PAIRS = {name: kind.discriminator for name, kind in losses.ADVERSARIAL.items()}
GENERATORS = {name: kind.generator for name, kind in losses.ADVERSARIAL.items()}


def logits(seed, shape=(4, 3), scale=2.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("value", [-30.0, -1.0, 0.0, 2.5, 30.0])
def test_relativistic_average_is_ln_2_where_the_logits_are_equal(value):
    same = jnp.full((3, 1), value)
    np.testing.assert_allclose(losses.relativistic_average_discriminator_loss(same, same), LN2, rtol=1e-6)
    np.testing.assert_allclose(losses.relativistic_average_generator_loss(same, same), LN2, rtol=1e-6)


def test_relativistic_average_swaps_roles():
    real, fake = logits(0), logits(1)
    np.testing.assert_array_equal(
        losses.relativistic_average_generator_loss(real, fake),
        losses.relativistic_average_discriminator_loss(fake, real),
    )
    # Only differences of logits count.
    np.testing.assert_allclose(
        losses.relativistic_average_discriminator_loss(real + 5, fake + 5),
        losses.relativistic_average_discriminator_loss(real, fake),
        rtol=1e-5,
    )


def test_values_at_zero():
    zero = jnp.zeros((2, 1))
    expected = {
        "standard": (LN2, 2 * LN2), "least_squares": (0.5, 0.5), "hinge": (0.0, 2.0),
        "relativistic_average": (LN2, LN2),
    }  # fmt: skip
    assert set(expected) == set(losses.ADVERSARIAL)
    for name, (generator, discriminator) in expected.items():
        np.testing.assert_allclose(GENERATORS[name](zero, zero), generator, rtol=1e-6)
        np.testing.assert_allclose(PAIRS[name](zero, zero), discriminator, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 1), (3, 4, 4, 1)])
def test_against_torch(shape):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    F = torch.nn.functional
    real, fake = logits(0, shape), logits(1, shape)
    r, f = torch.from_numpy(np.array(real)), torch.from_numpy(np.array(fake))
    one, zero = torch.ones_like(r), torch.zeros_like(r)
    bce, mse = F.binary_cross_entropy_with_logits, F.mse_loss
    expected = {
        "standard": (bce(f, one), bce(r, one) + bce(f, zero)),
        "least_squares": (mse(f, one) / 2, (mse(r, one) + mse(f, zero)) / 2),
        "hinge": (-f.mean(), F.relu(1 - r).mean() + F.relu(1 + f).mean()),
        "relativistic_average": (
            (bce(r - f.mean(), zero) + bce(f - r.mean(), one)) / 2,
            (bce(r - f.mean(), one) + bce(f - r.mean(), zero)) / 2,
        ),
    }
    for name, (generator, discriminator) in expected.items():
        assert float(GENERATORS[name](real, fake).mean()) == pytest.approx(float(generator), rel=1e-5)
        assert float(PAIRS[name](real, fake).mean()) == pytest.approx(float(discriminator), rel=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_players_pull_apart(name):
    """Down the discriminator's loss real logits rise and fake ones fall; down the generator's fakes rise."""
    real, fake = logits(0), logits(1)
    d_real, d_fake = jax.grad(lambda r, f: PAIRS[name](r, f).sum(), (0, 1))(real, fake)
    g_fake = jax.grad(lambda f: GENERATORS[name](real, f).sum())(fake)
    assert d_real.sum() < 0 < d_fake.sum()
    assert g_fake.sum() < 0
    assert all(bool(jnp.isfinite(g).all()) for g in (d_real, d_fake, g_fake))
    relies = bool(jnp.abs(jax.grad(lambda r: GENERATORS[name](r, fake).sum())(real)).max() > 0)
    assert relies == losses.ADVERSARIAL[name].relativistic


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_equal_difference_quotients(name):
    real, fake = logits(2, (3, 2)), logits(3, (3, 2))
    direction = logits(4, (3, 2), 1.0)
    for loss in (lambda f: PAIRS[name](real, f).sum(), lambda f: GENERATORS[name](real, f).sum()):
        slope = float((jax.grad(loss)(fake) * direction).sum())
        h = 1e-2
        quotient = float(loss(fake + h * direction) - loss(fake - h * direction)) / (2 * h)
        assert slope == pytest.approx(quotient, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_sure_discriminators_give_finite_values_and_gradients(name, value):
    real, fake = jnp.full((2, 1), -value), jnp.full((2, 1), value)
    for loss in (PAIRS[name], GENERATORS[name]):
        found, grads = jax.value_and_grad(lambda r, f, loss=loss: loss(r, f).sum(), (0, 1))(real, fake)
        assert np.isfinite(found)
        assert all(bool(jnp.isfinite(g).all()) for g in grads)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_one_value_an_example_in_float32(name, dtype):
    real, fake = (logits(i, (1, 2, 2, 1)).astype(dtype) for i in (0, 1))
    for loss in (PAIRS[name], GENERATORS[name]):
        value = jax.jit(loss)(real, fake)
        assert value.shape == (1,)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, loss(real, fake), rtol=1e-6)


def test_maps_of_logits_are_averaged():
    real, fake = logits(0, (2, 3, 3, 1)), logits(1, (2, 3, 3, 1))
    by_place = jnp.stack(
        [losses.standard_discriminator_loss(real[:, i, j], fake[:, i, j]) for i in range(3) for j in range(3)]
    )
    np.testing.assert_allclose(losses.standard_discriminator_loss(real, fake), by_place.mean(0), rtol=1e-5)


def test_bad_shapes_raise():
    with pytest.raises(ValueError, match=r"same shape, got \(2, 1\) and \(3, 1\)"):
        losses.hinge_discriminator_loss(jnp.zeros((2, 1)), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="batch axis"):
        losses.standard_generator_loss(jnp.zeros(()))
