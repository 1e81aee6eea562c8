"""The terms of variational bounds: per-example values, gradients, semantics of beta and free bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from vaesr import losses

SHAPE = (4, 3, 2)


def _array(seed: int, shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _unit(seed: int, shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


# name: (function, arguments)
CASES = {
    "gaussian_kl_standard": (losses.gaussian_kl_standard, (_array(0), _array(1))),
    "gaussian_kl": (losses.gaussian_kl, (_array(0), _array(1), _array(2), _array(3))),
    "bernoulli_nll": (losses.bernoulli_nll, (_array(0), _unit(1))),
    "gaussian_nll": (losses.gaussian_nll, (_array(0), _array(1))),
    "free_bits": (lambda kl: losses.free_bits(kl, nats=0.4), (_unit(1, (4, 5)),)),
    "negative_elbo": (losses.negative_elbo, (_array(0, (4,)), _unit(1, (4,)))),
    "importance_weighted_bound": (losses.importance_weighted_bound, (_array(0, (4, 5)),)),
}
cases = pytest.mark.parametrize(("function", "arguments"), CASES.values(), ids=CASES.keys())


@cases
def test_one_float32_value_per_example_with_and_without_jit(function, arguments):
    value = function(*arguments)
    assert value.shape == (4,) and value.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(function)(*arguments), value, rtol=1e-5, atol=1e-6)


@cases
def test_examples_do_not_touch_each_other(function, arguments):
    one_by_one = [function(*(a[i : i + 1] for a in arguments))[0] for i in range(4)]  # a batch of one
    np.testing.assert_allclose(one_by_one, function(*arguments), rtol=1e-5, atol=1e-6)


@cases
def test_vmap(function, arguments):
    doubled = jax.vmap(function)(*(jnp.stack([a, a]) for a in arguments))
    np.testing.assert_allclose(doubled[1], function(*arguments), rtol=1e-5, atol=1e-6)


@cases
def test_gradients_are_numerically_right(function, arguments):
    check_grads(lambda *a: function(*a).sum(), arguments, order=1, modes=["rev"], atol=5e-2, rtol=5e-2)


@cases
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_widened_before_anything_else(function, arguments, dtype):
    half = tuple(a.astype(dtype) for a in arguments)
    value = function(*half)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, function(*(a.astype(jnp.float32) for a in half)))


@pytest.mark.parametrize("name", ["gaussian_kl_standard", "gaussian_kl", "bernoulli_nll", "gaussian_nll"])
def test_a_shape_mismatch_names_both_shapes_at_trace_time(name):
    function, arguments = CASES[name]
    with pytest.raises(ValueError, match=r"\(4, 3, 2\).*\(4, 3, 1\)"):
        jax.eval_shape(function, *arguments[:-1], arguments[-1][..., :1])
    with pytest.raises(ValueError, match="batch axis"):
        function(*(a[0, 0, 0] for a in arguments))


def test_scipy_agrees():
    mean, targets, log_scale = _array(0), _array(1), 0.3
    expected = -scipy.stats.norm.logpdf(targets, mean, np.exp(log_scale)).sum(axis=(1, 2))
    np.testing.assert_allclose(losses.gaussian_nll(mean, targets, log_scale=log_scale), expected, rtol=1e-5)
    scales = _array(2)
    expected = -scipy.stats.norm.logpdf(targets, mean, np.exp(scales)).sum(axis=(1, 2))
    np.testing.assert_allclose(losses.gaussian_nll(mean, targets, log_scale=scales), expected, rtol=1e-5)
    bits = targets > 0
    expected = -scipy.stats.bernoulli.logpmf(bits, scipy.special.expit(mean)).sum(axis=(1, 2))
    np.testing.assert_allclose(losses.bernoulli_nll(mean, bits), expected, rtol=1e-5)


@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_bernoulli_nll_is_finite_at_extreme_logits(logit, target):
    value, gradient = jax.value_and_grad(lambda x: losses.bernoulli_nll(x, jnp.full((2, 3), target)).sum())(
        jnp.full((2, 3), logit)
    )
    assert value == (0.0 if (logit > 0) == (target > 0) else 6e4)
    np.testing.assert_array_equal(gradient, float(logit > 0) - target)


def test_integer_targets_are_refused():
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        losses.bernoulli_nll(_array(0), jnp.zeros(SHAPE, jnp.uint8))
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        losses.gaussian_nll(_array(0), jnp.zeros(SHAPE, jnp.int32))


def test_log_scale_must_fit():
    with pytest.raises(ValueError, match=r"log_scale.*\(4, 3, 2\).*\(2,\)"):
        losses.gaussian_nll(_array(0), _array(1), log_scale=jnp.zeros(2))


def test_a_learned_scale_settles_on_the_residual():
    """d nll / d log_scale = n - Σ r²/s² vanishes where s is the root mean square of the residual."""
    mean, targets = _array(0), _array(1)
    log_scale = 0.5 * jnp.log(jnp.square(mean - targets).mean())
    gradient = jax.grad(lambda s: losses.gaussian_nll(mean, targets, log_scale=s).sum())(log_scale)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


def test_beta_weighs_the_kl():
    reconstruction, kl = jnp.array([3.0, 1.0]), jnp.array([2.0, 4.0])
    np.testing.assert_allclose(losses.negative_elbo(reconstruction, kl), [5.0, 5.0])
    np.testing.assert_allclose(losses.negative_elbo(reconstruction, kl, beta=0.5), [4.0, 3.0])
    np.testing.assert_allclose(jax.jit(losses.negative_elbo)(reconstruction, kl, beta=0.0), reconstruction)
    with pytest.raises(ValueError, match="beta"):
        losses.negative_elbo(reconstruction, kl, beta=-1.0)
    with pytest.raises(ValueError, match=r"\(2,\).*\(1,\)"):
        losses.negative_elbo(reconstruction, kl[:1])
    with pytest.raises(ValueError, match="per example"):
        losses.negative_elbo(_array(0), _array(1))


def test_free_bits_per_example():
    kl = jnp.array([[0.1, 1.0], [0.5, 2.0]])
    value, pull = jax.vjp(lambda x: losses.free_bits(x, nats=0.4), kl)
    np.testing.assert_allclose(value, [1.4, 2.5])
    np.testing.assert_array_equal(pull(jnp.ones(2))[0], [[0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(losses.free_bits(kl, nats=0.0), kl.sum(axis=1))


def test_free_bits_over_the_batch_is_the_papers_sum():
    kl = jnp.array([[0.1, 1.0, 0.6], [0.5, 2.0, 0.0]])  # means 0.3, 1.5, 0.3
    value, pull = jax.vjp(lambda x: losses.free_bits(x, nats=0.4, over="batch"), kl)
    np.testing.assert_allclose(value.mean(), np.maximum(np.asarray(kl).mean(axis=0), 0.4).sum(), rtol=1e-6)
    np.testing.assert_array_equal(pull(jnp.ones(2))[0], [[0.0, 1.0, 0.0]] * 2)


def test_free_bits_refuses_nonsense():
    with pytest.raises(ValueError, match=r"\[B, G\].*\(4, 3, 2\)"):
        losses.free_bits(_unit(0), nats=0.1)
    with pytest.raises(ValueError, match="nats"):
        losses.free_bits(_unit(0, (2, 3)), nats=-0.1)
    with pytest.raises(ValueError, match="over"):
        losses.free_bits(_unit(0, (2, 3)), nats=0.1, over="group")


def test_importance_weighted_bound_is_a_log_mean():
    weights = _array(0, (4, 7))
    expected = np.log(np.exp(np.asarray(weights, np.float64)).mean(axis=1))
    np.testing.assert_allclose(losses.importance_weighted_bound(weights), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.importance_weighted_bound(weights[:, :1]), weights[:, 0], rtol=1e-6)
    far = losses.importance_weighted_bound(weights - 1e4)  # no underflow
    np.testing.assert_allclose(far, expected - 1e4, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[B, K\].*\(4,\)"):
        losses.importance_weighted_bound(weights[:, 0])
