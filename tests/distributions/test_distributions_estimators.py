"""Gradient estimators: means and variances against closed forms, gradients against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    Logistic,
    MovingAverage,
    Normal,
    doubly_reparameterised_bound,
    example_keys,
    importance_weighted,
    measure_valued,
    pathwise,
    score_function,
)

ESTIMATORS = {
    "pathwise": pathwise,
    "score": score_function,
    "score_number": functools.partial(score_function, baseline=2.0),
    "score_leave_one_out": functools.partial(score_function, baseline="leave_one_out"),
    "score_optimal": functools.partial(score_function, baseline="optimal"),
    "measure_valued": measure_valued,
    "measure_valued_uncoupled": functools.partial(measure_valued, coupled=False),
}
COUNT = 200_000


def square(z):
    return jnp.square(z).sum(axis=-1)


def gradients(estimator, dimension, *, samples, count=COUNT, f=square):
    """Gradients by mean and log-variance of E[f] at mean 1 and variance 1, `[count, dimension]` each."""

    def one(key):
        def value(q):
            return estimator(f, q, key, samples=samples).mean()

        return jax.grad(value)(Normal(jnp.ones(dimension), jnp.zeros(dimension)))

    chunk = max(1, 200_000 // dimension)
    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=min(chunk, count)))
    return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), count)))


def variance_with_error(x):
    """The variance, and its standard error from the fourth moment."""
    deviation = np.square(x.astype(np.float64) - x.mean())
    return deviation.mean(), deviation.std() / np.sqrt(len(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_unbiased(name):
    # E[Σ x²] = Σ mean² + variance: gradients 2 mean and variance.
    found = gradients(ESTIMATORS[name], 3, samples=3, count=100_000)
    for leaf, expected in ((found.mean, 2.0), (found.log_var, 1.0)):
        error = leaf.std(axis=0) / np.sqrt(len(leaf))
        assert (np.abs(leaf.mean(axis=0) - expected) < 4.5 * error).all(), (leaf.mean(axis=0), error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dimension", "name", "expected"),
    [
        # Closed forms of f = Σ x² at mean 1, scale 1, by one element of the mean, one sample.
        (1, "pathwise", 4.0),
        (10, "pathwise", 4.0),
        (1, "score", 30.0),
        (10, "score", 30.0 + 22 * 9 + 4 * 81),
        (100, "score", 30.0 + 22 * 99 + 4 * 99**2),
        (1, "score_mean", 18.0),  # the baseline E[f] = 2
        (1, "score_best", 14.0),  # the baseline E[f s²] / E[s²] = 4
    ],
)
def test_variance_is_the_closed_form(dimension, name, expected):
    known = {"score_mean": 2.0, "score_best": 4.0}
    estimator = ESTIMATORS.get(name) or functools.partial(score_function, baseline=known[name])
    variance, error = variance_with_error(gradients(estimator, dimension, samples=1).mean[:, 0])
    assert abs(variance - expected) < 4.5 * error and error < 0.06 * expected, (variance, error)


@pytest.mark.slow
def test_the_optimal_baseline_of_two_samples_is_the_other_one(key):
    # The weight cancels, however small it is beside the own sample's.
    keys = jax.random.split(key, 20_000)

    def gradient(key, baseline):
        def value(mean):
            q = Normal(mean, jnp.zeros(3))
            return score_function(square, q, key, samples=2, baseline=baseline).sum()

        return jax.grad(value)(jnp.ones(3))

    one, other = (jax.vmap(lambda k, b=b: gradient(k, b))(keys) for b in ("optimal", "leave_one_out"))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_estimated_baselines_approach_the_best_ones():
    # Leave-one-out: the baseline's own variance adds Var[f] E[s²] / (S - 1) = 6 / (S - 1), and pairs of
    # samples, whose terms correlate as each is in the other's baseline, E[f s]² / (S - 1) = 4 / (S - 1).
    for samples in (2, 8):
        found = gradients(ESTIMATORS["score_leave_one_out"], 1, samples=samples).mean[:, 0]
        variance, error = variance_with_error(found)
        plain, _ = variance_with_error(gradients(score_function, 1, samples=samples).mean[:, 0])
        np.testing.assert_allclose(plain * samples, 30.0, rtol=0.06)
        assert abs(variance * samples - (18.0 + 10.0 / (samples - 1))) < 4.5 * error * samples
    # Optimal: the estimated baseline's variance adds about E[s⁴ (f - 4)²] / (S - 1) = 102 / (S - 1).
    many = gradients(ESTIMATORS["score_optimal"], 1, samples=256, count=20_000).mean[:, 0]
    variance, error = variance_with_error(many)
    assert abs(variance * 256 - 14.0) < 4.5 * error * 256 + 0.8


@pytest.mark.slow
def test_measure_valued_variance_does_not_grow_with_dimension():
    one, ten = (variance_with_error(gradients(measure_valued, d, samples=1).mean[:, 0])[0] for d in (1, 10))
    # (f(1 + r) - f(1 - r)) / √(2π) = 4 r / √(2π), with r Rayleigh: variance 16 (2 - π/2) / 2π.
    np.testing.assert_allclose([one, ten], 16 * (2 - np.pi / 2) / (2 * np.pi), rtol=0.02)
    apart = gradients(ESTIMATORS["measure_valued_uncoupled"], 10, samples=1).mean[:, 0]
    # Independent: Var[2 r + r²] + Var[2 r - r²] = 8 (2 - π/2) + 2 · 4, over 2π.
    np.testing.assert_allclose(
        variance_with_error(apart)[0], (8 * (2 - np.pi / 2) + 8) / (2 * np.pi), rtol=0.02
    )


@pytest.mark.slow
def test_values_are_those_of_f_and_do_not_depend_on_the_number_of_samples(key):
    q = Normal(jnp.arange(3.0), jnp.zeros(3))
    z = jnp.stack([q.sample(jax.random.fold_in(key, s)) for s in range(4)])
    for estimator in ESTIMATORS.values():
        np.testing.assert_allclose(estimator(square, q, key, samples=4), square(z), rtol=1e-6)
        np.testing.assert_allclose(estimator(square, q, key, samples=2), square(z)[:2], rtol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_f_holds_gets_its_ordinary_gradient(name, key):
    q = Normal(jnp.ones((2, 3)), jnp.zeros((2, 3)))

    def value(theta, estimator):
        return estimator(lambda z: theta * square(z), q, key, samples=2).sum()

    found = jax.grad(value)(2.0, ESTIMATORS[name])
    np.testing.assert_allclose(found, pathwise(square, q, key, samples=2).sum(), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_examples_have_their_own_noise_and_gradient(name, key):
    q = Normal(jnp.ones((4, 3)), jnp.zeros((4, 3)))
    estimator = functools.partial(ESTIMATORS[name], square, samples=2)

    def value(q, keys):
        return estimator(q, keys).sum()

    keys = example_keys(key, jnp.arange(4))
    assert estimator(q, keys).shape == (2, 4)
    whole = jax.jit(jax.grad(value))(q, keys)
    half = jax.grad(value)(jax.tree.map(lambda x: x[2:], q), keys[2:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2:], b, rtol=1e-5, atol=1e-5), whole, half)
    mapped = jax.vmap(lambda q, k: jax.grad(value)(q, k[None]))(jax.tree.map(lambda x: x[:, None], q), keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, 0], rtol=1e-5, atol=1e-5), whole, mapped)


@pytest.mark.slow
def test_score_function_takes_jumps_and_discrete_variables(key):
    step = lambda z: (z > 0.0).astype(jnp.float32).sum(axis=-1)  # its derivative is 0 wherever it exists
    found = gradients(ESTIMATORS["score_leave_one_out"], 1, samples=4, count=50_000, f=step).mean
    expected = np.exp(-0.5) / np.sqrt(2 * np.pi)  # the density of N(1, 1) at 0
    np.testing.assert_allclose(found.mean(), expected, atol=4.5 * found.std() / np.sqrt(len(found)))
    weak = gradients(measure_valued, 1, samples=1, count=50_000, f=step).mean
    np.testing.assert_allclose(weak.mean(), expected, atol=4.5 * weak.std() / np.sqrt(len(weak)))

    def value(logits, key):
        f = lambda z: jnp.square(z.sum(axis=-1) - 0.5)
        return score_function(f, Bernoulli(logits), key, samples=4, baseline="leave_one_out").mean()

    logits = jnp.array([0.3, -1.0])
    many = jax.vmap(jax.grad(value), (None, 0))(logits, jax.random.split(key, 50_000))
    p = jax.nn.sigmoid(logits)

    def exact(logits):
        a, b = jax.nn.sigmoid(logits)
        return (1 - a) * (1 - b) * 0.25 + (a * (1 - b) + b * (1 - a)) * 0.25 + a * b * 2.25

    assert p.shape == (2,)
    np.testing.assert_allclose(
        many.mean(axis=0), jax.grad(exact)(logits), atol=4.5 * float(many.std()) / np.sqrt(50_000)
    )


def test_moving_average_is_not_pulled_to_zero():
    average = MovingAverage.create()
    assert average.value == 0.0
    average = average.update(jnp.full(5, -100.0))
    np.testing.assert_allclose(average.value, -100.0, rtol=1e-5)
    average = average.update(jnp.array([-50.0]), decay=0.5)
    np.testing.assert_allclose(average.value, (0.5 * 0.01 * -100 - 0.5 * 50) / (0.5 * 0.01 + 0.5), rtol=1e-4)


# --- importance-weighted bounds: z ~ N(theta, 1), x | z ~ N(z, 1) ----------------------------------------


def log_joint(theta, x, z):
    return -0.5 * ((z - theta) ** 2 + (x - z) ** 2 + 2 * np.log(2 * np.pi)).sum(axis=-1)


def bound(theta, q, key, *, gradient, k, samples=1):
    f = functools.partial(log_joint, theta, 2.0)
    return importance_weighted(f, q, key, samples=samples, importance_samples=k, gradient=gradient)


@pytest.mark.slow
def test_bound_reaches_the_evidence():
    # Reference: log N(2; 0, 2) = -2.26551; L_1 = -3.41894, L_10 = -2.3363, L_100 = -2.2714 with q the prior.
    q = Normal(jnp.zeros(1), jnp.zeros(1))
    run = jax.jit(functools.partial(bound, 0.0, gradient="dreg"), static_argnames=("k", "samples"))
    for k, expected in ((1, -3.41894), (10, -2.3363), (100, -2.2714)):
        count = 4_000_000 // k // 10
        values = np.asarray(run(q, jax.random.key(1), k=k, samples=count), np.float64)
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(count) + 1e-4
    exact = Normal(jnp.ones(1), jnp.full(1, -np.log(2.0)))
    values = bound(0.0, exact, jax.random.key(2), gradient="stl", k=5, samples=100)
    np.testing.assert_allclose(values, -2.26551, rtol=2e-6)


@pytest.fixture(scope="module")
def bound_gradients():
    """Gradients by (theta, q) of each kind, `[n]`, at K = 1 and 8, for a q that is not the posterior."""
    q = Normal(jnp.array([0.4]), jnp.array([0.2]))
    found = {}
    for gradient in ("pathwise", "stl", "dreg"):
        for k in (1, 8):
            value = lambda theta, q, key, g=gradient, k=k: bound(theta, q, key, gradient=g, k=k).sum()
            run = jax.jit(jax.vmap(jax.grad(value, argnums=(0, 1)), (None, None, 0)))
            theta, by_q = run(0.0, q, jax.random.split(jax.random.key(3), 100_000))
            found[gradient, k] = {"theta": theta, "mean": by_q.mean[:, 0], "log_var": by_q.log_var[:, 0]}
    return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


@pytest.mark.slow
def test_doubly_reparameterised_gradients_are_unbiased(bound_gradients):
    for k in (1, 8):
        for name, plain in bound_gradients["pathwise", k].items():
            other = bound_gradients["dreg", k][name]
            error = np.hypot(plain.std(), other.std()) / np.sqrt(len(plain))
            assert abs(plain.mean() - other.mean()) < 4.5 * error, (k, name)
    # Sticking the landing is unbiased for one sample, where it is the same estimator, and biased for more.
    for name, other in bound_gradients["stl", 1].items():
        np.testing.assert_allclose(other, bound_gradients["dreg", 1][name], atol=1e-4)
    biased, right = bound_gradients["stl", 8]["mean"], bound_gradients["dreg", 8]["mean"]
    assert abs(biased.mean() - right.mean()) > 10 * biased.std() / np.sqrt(len(biased))


def test_doubly_reparameterised_gradients_have_less_variance(bound_gradients):
    plain, double = (bound_gradients[gradient, 8] for gradient in ("pathwise", "dreg"))
    for name in ("mean", "log_var"):
        assert double[name].std() < 0.7 * plain[name].std()
    np.testing.assert_allclose(double["theta"], plain["theta"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exact_posterior_leaves_no_gradient(key):
    exact = Normal(jnp.ones(1), jnp.full(1, -np.log(2.0)))
    for gradient in ("dreg", "stl"):
        found = jax.grad(lambda q: bound(0.0, q, key, gradient=gradient, k=4).sum())(exact)  # noqa: B023
        np.testing.assert_allclose([found.mean, found.log_var], 0.0, atol=1e-6)
    plain = jax.grad(lambda q: bound(0.0, q, key, gradient="pathwise", k=4).sum())(exact)
    assert abs(plain.mean[0]) > 1e-3


@pytest.mark.slow
def test_doubly_reparameterised_gradient_is_the_formula(key):
    q = Normal(jnp.array([[0.4, -0.2]] * 3), jnp.full((3, 2), 0.2))
    noise = jax.random.normal(key, (5, 3, 2))
    x = jnp.arange(3.0)

    def log_weight(theta, stopped, z):
        log_p = -0.5 * (jnp.square(z - theta) + jnp.square(x[None, :, None] - z)).sum(axis=-1)
        return log_p - jax.vmap(stopped.log_prob)(z).sum(axis=-1)

    def value(theta, q):
        z = q.mean[None] + jnp.exp(0.5 * q.log_var)[None] * noise
        held = jax.lax.stop_gradient(q)
        found, log_weights = doubly_reparameterised_bound(functools.partial(log_weight, theta, held), z)
        return found.sum() + 0.0 * log_weights.sum()  # which carry no gradient

    by_theta, by_q = jax.jit(jax.grad(value, argnums=(0, 1)))(0.3, q)
    z = q.mean[None] + jnp.exp(0.5 * q.log_var)[None] * noise
    weights = jax.nn.softmax(log_weight(0.3, q, z), axis=0)
    by_z = jax.grad(lambda z: log_weight(0.3, q, z).sum())(z)
    slow = (jnp.square(weights)[..., None] * by_z).sum(axis=0)
    np.testing.assert_allclose(by_q.mean, slow, rtol=1e-4, atol=1e-6)
    each = jax.jacobian(lambda theta: log_weight(theta, q, z))(0.3)
    np.testing.assert_allclose(by_theta, (weights * each).sum(), rtol=1e-4)


def test_half_precision_parameters_give_float32_values(key):
    q = Normal(jnp.ones((2, 3), jnp.bfloat16), jnp.zeros((2, 3), jnp.bfloat16))
    for estimator in ESTIMATORS.values():
        assert estimator(square, q, key, samples=2).dtype == jnp.float32
        found = jax.grad(lambda q: estimator(square, q, key, samples=2).sum())(q)  # noqa: B023
        assert found.mean.dtype == jnp.bfloat16 and np.isfinite(np.asarray(found.mean, np.float32)).all()


@pytest.mark.slow
def test_a_scalar_log_variance_gets_the_summed_gradient(key):
    def value(log_var, estimator):
        return estimator(square, Normal(jnp.ones(3), log_var), key, samples=4).mean()

    for estimator in ESTIMATORS.values():
        scalar = jax.grad(value)(jnp.float32(0.3), estimator)
        full = jax.grad(value)(jnp.full(3, 0.3), estimator)
        np.testing.assert_allclose(scalar, full.sum(), rtol=1e-5)


@pytest.mark.slow
def test_bad_input_is_refused_with_a_sentence(key):
    q = Normal(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        pathwise(square, q, key, samples=0)
    with pytest.raises(ValueError, match=r"leading axes of that shape, got \(3,\)"):
        score_function(lambda z: z.sum(axis=0), q, key)
    with pytest.raises(ValueError, match="got Bernoulli; use score_function"):
        pathwise(square, Bernoulli(jnp.zeros(3)), key)
    with pytest.raises(ValueError, match="reparameterisable q, got Bernoulli"):
        importance_weighted(square, Bernoulli(jnp.zeros(3)), key)
    with pytest.raises(ValueError, match="Normal only, got Bernoulli"):
        measure_valued(square, Bernoulli(jnp.zeros(3)), key)
    with pytest.raises(ValueError, match="baseline must be an array or one of"):
        score_function(square, q, key, baseline="mean")
    with pytest.raises(ValueError, match='"leave_one_out" needs at least 2 samples, got 1'):
        score_function(square, q, key, baseline="leave_one_out")
    with pytest.raises(ValueError, match=r"baseline must broadcast to rank 2, got shape \(1, 1, 2\)"):
        score_function(square, q, key, baseline=jnp.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="gradient must be one of pathwise, stl, dreg, got 'double'"):
        importance_weighted(square, q, key, gradient="double")
    with pytest.raises(ValueError, match="importance_samples must be at least 1, got 0"):
        importance_weighted(square, q, key, importance_samples=0)


@pytest.mark.slow
def test_logistics_are_reparameterised_and_their_levels_are_not(key):
    q = Logistic(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    found = jax.grad(lambda q: pathwise(square, q, key, samples=20_000).mean(axis=0).sum())(q)
    np.testing.assert_allclose(found.mean, 2.0, atol=0.1)  # 4.5 standard errors of 2 * pi / sqrt(3 * 20000)
    levels = DiscretisedLogistic(q.mean, q.log_scale)
    with pytest.raises(ValueError, match="got DiscretisedLogistic; use score_function"):
        pathwise(square, levels, key)
    with pytest.raises(ValueError, match="DiscretisedLogistic is drawn with one key per example"):
        score_function(square, levels, key)
    keys = example_keys(key, jnp.arange(2))
    assert score_function(square, levels, keys, samples=2).shape == (2, 2)


@pytest.mark.slow
def test_importance_weights_need_one_value_per_example(key):
    q = Normal(jnp.ones((4, 2)), jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="f must map values"):
        importance_weighted(lambda z: z.mean(axis=0), q, key)
