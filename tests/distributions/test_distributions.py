"""Densities against scipy, KLs against Monte Carlo, and noise that ignores how a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from vaesr.distributions import (
    Bernoulli,
    Normal,
    example_keys,
    example_normal,
    example_uniform,
    kl_normal,
    kl_standard_normal,
)


def _normal(seed: int, shape: tuple[int, ...] = (5, 3)) -> Normal:
    generator = np.random.default_rng(seed)
    return Normal(
        jnp.asarray(generator.normal(size=shape), jnp.float32),
        jnp.asarray(generator.uniform(-3, 2, size=shape), jnp.float32),
    )


def test_normal_log_prob_equals_scipy():
    p = _normal(0)
    value = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(value, p.mean, np.exp(0.5 * np.asarray(p.log_var, np.float64)))
    np.testing.assert_allclose(p.log_prob(value), expected, rtol=1e-5, atol=1e-5)


def test_normal_takes_a_scalar_log_variance():
    value = jnp.ones((2, 3))
    expected = Normal(jnp.zeros((2, 3)), jnp.full((2, 3), 0.7)).log_prob(value)
    np.testing.assert_array_equal(Normal(jnp.zeros((2, 3)), jnp.float32(0.7)).log_prob(value), expected)


def test_bernoulli_log_prob_equals_scipy():
    logits = np.random.default_rng(2).normal(size=(4, 6), scale=3).astype(np.float32)
    value = (np.random.default_rng(3).random((4, 6)) < 0.5).astype(np.float32)
    expected = scipy.stats.bernoulli.logpmf(value, scipy.special.expit(logits.astype(np.float64)))
    np.testing.assert_allclose(Bernoulli(jnp.asarray(logits)).log_prob(value), expected, rtol=2e-6, atol=1e-6)


def test_bernoulli_keeps_the_digits_of_a_tiny_loss():
    log_prob = Bernoulli(jnp.array([20.0, -20.0])).log_prob(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(log_prob, -np.log1p(np.exp(-20.0)), rtol=1e-5)


@pytest.mark.parametrize("logit", [1e4, -1e4, 0.0, 88.0, -120.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_bernoulli_gradient_is_exact_everywhere(logit, target):
    value, gradient = jax.value_and_grad(lambda x: Bernoulli(x).log_prob(jnp.float32(target)))(
        jnp.float32(logit)
    )
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, target - scipy.special.expit(logit), atol=1e-6)


@pytest.mark.slow
def test_closed_form_kl_equals_monte_carlo(key):
    q, p = Normal(jnp.float32(0.4), jnp.float32(-0.8)), Normal(jnp.float32(-0.3), jnp.float32(0.5))
    count = 1_000_000
    wide = Normal(jnp.full(count, q.mean), q.log_var)
    sample = wide.sample(key)
    pairs = [(kl_normal(q, p), p), (kl_standard_normal(q), Normal(jnp.float32(0), jnp.float32(0)))]
    for closed, other in pairs:
        ratio = wide.log_prob(sample) - Normal(jnp.full(count, other.mean), other.log_var).log_prob(sample)
        ratio = np.asarray(ratio, np.float64)
        assert abs(ratio.mean() - closed) < 4 * ratio.std() / np.sqrt(count)


def test_kl_of_equal_distributions_is_exactly_zero():
    p = _normal(4)
    np.testing.assert_array_equal(kl_normal(p, p), 0.0)
    np.testing.assert_array_equal(kl_standard_normal(Normal(jnp.zeros(3), jnp.zeros(3))), 0.0)


def test_kl_to_a_standard_normal_is_a_special_case():
    q = _normal(5)
    standard = Normal(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))
    np.testing.assert_allclose(kl_standard_normal(q), kl_normal(q, standard), rtol=1e-6)


def test_kl_keeps_small_values_positive():
    tiny = kl_standard_normal(Normal(jnp.zeros(1), jnp.full(1, 1e-3)))
    np.testing.assert_allclose(tiny, (np.expm1(1e-3) - 1e-3) / 2, rtol=1e-3)


def test_gradients_are_numerically_right():
    q, p = _normal(6, (3,)), _normal(7, (3,))
    check_grads(lambda a, b: kl_normal(a, b).sum(), (q, p), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)
    check_grads(lambda a: kl_standard_normal(a).sum(), (q,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)
    check_grads(lambda a, x: a.log_prob(x).sum(), (q, p.mean), order=1, modes=["rev"], atol=5e-2, rtol=2e-2)


@pytest.mark.slow
def test_samples_have_the_moments_and_the_pathwise_gradient(key):
    count = 200_000
    sample = Normal(jnp.full(count, 1.5), jnp.float32(np.log(4.0))).sample(key)
    assert abs(sample.mean() - 1.5) < 4 * 2 / np.sqrt(count)
    assert abs(sample.var() / 4 - 1) < 4 * np.sqrt(2 / count)
    # dE[z²]/d mean = 2 mean; dE[z²]/d log_var = var.
    gradient = jax.grad(
        lambda m, v: jnp.square(Normal(jnp.broadcast_to(m, (count,)), v).sample(key)).mean(), argnums=(0, 1)
    )(jnp.float32(1.5), jnp.float32(np.log(4.0)))
    np.testing.assert_allclose(gradient, (3.0, 4.0), rtol=0.02)
    ones = Bernoulli(jnp.full(count, 1.0)).sample(key)
    assert abs(ones.mean() - scipy.special.expit(1.0)) < 4 * 0.5 / np.sqrt(count)


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True])
def test_noise_does_not_depend_on_how_the_batch_is_cut(raw):
    key = jax.random.PRNGKey(3) if raw else jax.random.key(3)
    whole = example_keys(key, jnp.arange(6))
    for draw in (example_normal, example_uniform):
        expected = draw(whole, (2, 3))
        assert expected.shape == (6, 2, 3)
        parts = [draw(example_keys(key, jnp.arange(start, start + 2)), (2, 3)) for start in (0, 2, 4)]
        np.testing.assert_array_equal(jnp.concatenate(parts), expected)
        assert len(np.unique(expected)) == expected.size


def test_per_example_samples_use_one_key_each(key):
    p, keys = _normal(8), example_keys(key, jnp.arange(5))
    expected = p.mean + jnp.exp(p.log_var / 2) * example_normal(keys, (3,))
    np.testing.assert_allclose(p.sample_examples(keys), expected, rtol=1e-6)
    sample = Bernoulli(p.mean).sample_examples(keys)
    np.testing.assert_array_equal(sample, example_uniform(keys, (3,)) < jax.nn.sigmoid(p.mean))


def test_jit_and_vmap_change_nothing():
    q, p = _normal(9), _normal(10)
    np.testing.assert_allclose(jax.jit(kl_normal)(q, p), kl_normal(q, p), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(kl_normal)(q, p), kl_normal(q, p), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(kl_standard_normal)(q), kl_standard_normal(q), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_in_float32_out(dtype):
    p = jax.tree.map(lambda x: x.astype(dtype), _normal(11))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), p)
    for result, expected in [
        (kl_standard_normal(p), kl_standard_normal(wide)),
        (kl_normal(p, p), kl_normal(wide, wide)),
        (p.log_prob(p.log_var), wide.log_prob(wide.log_var)),
        (Bernoulli(p.mean).log_prob(p.mean > 0), Bernoulli(wide.mean).log_prob(wide.mean > 0)),
    ]:
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, expected)


@pytest.mark.slow
def test_errors_name_both_shapes(key):
    p = _normal(12)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 2\)"):
        p.log_prob(jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"\(2,\).*\(5, 3\)"):
        Normal(p.mean, jnp.zeros(2)).log_prob(p.mean)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(4, 3\)"):
        kl_normal(p, _normal(0, (4, 3)))
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 2\)"):
        Bernoulli(p.mean).log_prob(jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match="position must be a vector"):
        example_keys(key, jnp.zeros(3))
    keys = example_keys(key, jnp.arange(4))
    with pytest.raises(ValueError, match="one key per example"):
        p.sample_examples(keys)
    with pytest.raises(ValueError, match="one key per example"):
        Bernoulli(p.mean).sample_examples(keys)
