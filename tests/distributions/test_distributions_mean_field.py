"""Weight posteriors and priors: closed forms against scipy and Monte Carlo, pruning against a sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from vaesr.distributions import (
    GaussianPrior,
    ScaleMixturePrior,
    flatten_paths,
    gaussian_moments,
    mean_field,
    mean_field_kl,
    mean_field_log_ratio,
    mean_field_noise,
    mean_field_scales,
    prune,
    sample_mean_field,
    signal_to_noise,
    unflatten_paths,
)


def _params(seed: int = 0) -> dict:
    draw = np.random.default_rng(seed).normal
    tree = {
        "Dense_0": {"kernel": draw(size=(3, 4)), "bias": draw(size=4)},
        "block": {"Dense_0": {"kernel": draw(size=(4, 2)), "bias": draw(size=2)}},
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _posterior(seed: int = 0, select=None) -> dict:
    """A posterior of many different scales."""
    spread = np.random.default_rng(seed + 100)
    scale = lambda path, leaf: jnp.asarray(np.exp(spread.uniform(-4, 1, leaf.shape)), jnp.float32)
    return mean_field(_params(seed), scale=scale, select=select)


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def test_means_are_the_parameters_and_scales_are_as_asked():
    posterior = mean_field(_params(), scale=lambda path, leaf: 0.3 if path[-1] == "bias" else 1e-6)
    jax.tree.map(np.testing.assert_array_equal, posterior["mean"], _params())
    for path, scale in flatten_paths(mean_field_scales(posterior)).items():
        np.testing.assert_allclose(scale, 0.3 if path[-1] == "bias" else 1e-6, rtol=2e-6)
    for scale in (1e-10, 1e-3, 1.0, 30.0, 1e4):
        found = mean_field_scales(mean_field({"w": jnp.zeros(2)}, scale=scale))["w"]
        np.testing.assert_allclose(found, scale, rtol=1e-5)


@pytest.mark.slow
def test_deselected_leaves_are_deterministic(key):
    posterior = _posterior(select=lambda path, leaf: path != ("block", "Dense_0", "bias"))
    assert set(flatten_paths(posterior["rho"])) == set(flatten_paths(_params())) - {
        ("block", "Dense_0", "bias")
    }
    np.testing.assert_array_equal(mean_field_scales(posterior)["block"]["Dense_0"]["bias"], 0.0)
    weights = sample_mean_field(posterior, key)
    assert jax.tree.structure(weights) == jax.tree.structure(_params())
    np.testing.assert_array_equal(weights["block"]["Dense_0"]["bias"], _params()["block"]["Dense_0"]["bias"])
    # Its KL and log-ratio are those of a network without the leaf.
    without = jax.tree.map(lambda x: x, posterior)
    del without["mean"]["block"]["Dense_0"]["bias"]
    np.testing.assert_array_equal(
        mean_field_kl(posterior, GaussianPrior()), mean_field_kl(without, GaussianPrior())
    )
    ratio = mean_field_log_ratio(posterior, weights, GaussianPrior())
    np.testing.assert_array_equal(
        ratio, mean_field_log_ratio(without, sample_mean_field(without, key), GaussianPrior())
    )
    nothing = mean_field(_params(), select=lambda path, leaf: False)
    assert nothing["rho"] == {}
    assert mean_field_kl(nothing, GaussianPrior()) == 0.0
    jax.tree.map(np.testing.assert_array_equal, sample_mean_field(nothing, key), _params())


@pytest.mark.slow
def test_samples_have_the_moments(key):
    posterior = _posterior(1)
    draws = jax.vmap(functools.partial(sample_mean_field, posterior))(jax.random.split(key, 20_000))
    scales = mean_field_scales(posterior)
    deviation = jax.tree.map(lambda d, m, s: (d - m[None]) / s[None], draws, posterior["mean"], scales)
    z = np.concatenate([np.asarray(leaf).reshape(20_000, -1) for leaf in jax.tree.leaves(deviation)], axis=1)
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(20_000)
    assert np.abs((z**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(2 / 20_000)
    correlation = z.T @ z / 20_000 - np.eye(z.shape[1])  # leaves of one shape must not share their noise
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_noise_depends_on_the_path_and_not_on_the_order(key):
    posterior = _posterior()
    noise = mean_field_noise(posterior, key)
    alone = {kind: {"block": posterior[kind]["block"]} for kind in ("mean", "rho")}
    jax.tree.map(np.testing.assert_array_equal, mean_field_noise(alone, key)["block"], noise["block"])
    backwards = {kind: dict(reversed(posterior[kind].items())) for kind in ("rho", "mean")}
    jax.tree.map(np.testing.assert_array_equal, mean_field_noise(backwards, key), noise)
    sample = sample_mean_field(posterior, key)
    jax.tree.map(lambda s, m, n: np.testing.assert_array_equal(s, m + n), sample, posterior["mean"], noise)


@pytest.mark.slow
def test_the_gradient_of_a_sample_is_the_reparameterised_one(key):
    posterior = _posterior()
    total = lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(sample_mean_field(p, key)))
    gradient = jax.grad(total)(posterior)
    noise = jax.tree.map(jnp.divide, mean_field_noise(posterior, key), mean_field_scales(posterior))
    expected = jax.tree.map(lambda n, r: n * scipy.special.expit(np.asarray(r)), noise, posterior["rho"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), gradient["rho"], expected)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 1.0), gradient["mean"])


# --- priors ----------------------------------------------------------------------------------------------


def test_gaussian_prior_equals_scipy():
    params, means = _params(1), _params(2)
    flat, centre = _flat(params), _flat(means)
    expected = scipy.stats.norm.logpdf(flat, 0.5, 2.0).sum()
    np.testing.assert_allclose(GaussianPrior(2.0, mean=0.5).log_prob(params), expected, rtol=1e-6)
    scales = {"bias": 0.5, "kernel": 3.0}
    prior = GaussianPrior(lambda path, leaf: scales[path[-1]], mean=means)
    widths = _flat({p: jnp.full(v.shape, scales[p[-1]]) for p, v in flatten_paths(params).items()})
    np.testing.assert_allclose(
        prior.log_prob(params), scipy.stats.norm.logpdf(flat, centre, widths).sum(), rtol=1e-6
    )


@pytest.mark.parametrize("weight", [0.25, 0.75])
def test_scale_mixture_equals_scipy_far_out_as_well(weight):
    prior = ScaleMixturePrior(weight, 1.0, float(np.exp(-6)))
    values = np.array([0.0, 1e-4, 0.003, 0.02, -0.5, 3.0, -40.0], np.float32)
    expected = np.logaddexp(
        np.log(weight) + scipy.stats.norm.logpdf(values.astype(np.float64)),
        np.log1p(-weight) + scipy.stats.norm.logpdf(values.astype(np.float64), scale=np.exp(-6)),
    )
    densities = prior.log_densities({"w": jnp.asarray(values)})["w"]
    np.testing.assert_allclose(densities, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prior.log_prob({"w": jnp.asarray(values)}), expected.sum(), rtol=1e-5)
    gradient = jax.grad(lambda w: prior.log_prob({"w": w}))(jnp.asarray(values))
    share = scipy.special.expit(
        np.log(weight / (1 - weight))
        + scipy.stats.norm.logpdf(values.astype(np.float64))
        - scipy.stats.norm.logpdf(values.astype(np.float64), scale=np.exp(-6))
    )
    np.testing.assert_allclose(gradient, -values * (share + (1 - share) * np.exp(12)), rtol=2e-4, atol=1e-5)


def test_a_mixture_of_equal_scales_is_one_gaussian():
    params = _params()
    mixture = ScaleMixturePrior(0.3, 0.7, 0.7).log_prob(params)
    np.testing.assert_allclose(mixture, GaussianPrior(0.7).log_prob(params), rtol=1e-6)


# --- the KL ----------------------------------------------------------------------------------------------


def test_kl_equals_numpy():
    posterior, means = _posterior(3), _params(4)
    m, s = _flat(posterior["mean"]), _flat(mean_field_scales(posterior))
    closed = lambda mp, sp: (np.log(sp / s) + (s**2 + (m - mp) ** 2) / (2 * sp**2) - 0.5).sum()
    np.testing.assert_allclose(mean_field_kl(posterior, GaussianPrior()), closed(0.0, 1.0), rtol=1e-5)
    np.testing.assert_allclose(
        mean_field_kl(posterior, GaussianPrior(0.2, mean=means)), closed(_flat(means), 0.2), rtol=1e-5
    )


def test_kl_to_itself_is_zero():
    posterior = _posterior(5)
    scales = flatten_paths(mean_field_scales(posterior))
    prior = GaussianPrior(lambda path, leaf: scales[path], mean=posterior["mean"])
    assert abs(mean_field_kl(posterior, prior)) < 1e-6


@pytest.mark.slow
def test_kl_is_right_where_softplus_underflows():
    """At rho = -200 softplus is 0 in float32, and the KL still grows by 1 nat per unit of rho."""
    kl = lambda rho: mean_field_kl({"mean": {"w": jnp.zeros(1)}, "rho": {"w": rho}}, GaussianPrior())
    for rho in (-14.9, -15.1, -90.0, -200.0):
        value, gradient = jax.value_and_grad(kl)(jnp.full(1, rho))
        np.testing.assert_allclose(value, -rho - 0.5, rtol=1e-6)
        np.testing.assert_allclose(gradient, -1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_sampled_kl_equals_the_closed_form(key, scale):
    posterior, prior = _posterior(6), GaussianPrior(scale, mean=0.1)

    def ratio(key):
        return mean_field_log_ratio(posterior, sample_mean_field(posterior, key), prior)

    ratios = np.asarray(jax.vmap(ratio)(jax.random.split(key, 20_000)), np.float64)
    assert abs(ratios.mean() - mean_field_kl(posterior, prior)) < 4 * ratios.std() / np.sqrt(20_000)


@pytest.mark.slow
def test_sampled_kl_to_a_mixture_equals_quadrature(key):
    posterior = mean_field({"w": jnp.array([0.02])}, scale=0.05)
    prior = ScaleMixturePrior(0.5, 1.0, float(np.exp(-4)))
    grid = np.linspace(0.02 - 0.5, 0.02 + 0.5, 200_001)
    log_q = scipy.stats.norm.logpdf(grid, 0.02, 0.05)
    log_p = np.logaddexp(
        np.log(0.5) + scipy.stats.norm.logpdf(grid),
        np.log(0.5) + scipy.stats.norm.logpdf(grid, scale=np.exp(-4)),
    )
    exact = np.trapezoid(np.exp(log_q) * (log_q - log_p), grid)

    def ratio(key):
        return mean_field_log_ratio(posterior, sample_mean_field(posterior, key), prior)

    ratios = np.asarray(jax.vmap(ratio)(jax.random.split(key, 100_000)), np.float64)
    assert abs(ratios.mean() - exact) < 4 * ratios.std() / np.sqrt(100_000)


@pytest.mark.slow
def test_gradients_are_numerically_right(key):
    posterior = mean_field(_params(), scale=0.5)
    kl = lambda p: mean_field_kl(p, GaussianPrior(0.7))
    check_grads(kl, (posterior,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)
    for prior in (GaussianPrior(0.7), ScaleMixturePrior(0.5, 1.0, 0.3)):
        ratio = lambda p, prior=prior: mean_field_log_ratio(p, sample_mean_field(p, key), prior)
        check_grads(ratio, (posterior,), order=1, modes=["rev"], atol=5e-2, rtol=5e-2)


@pytest.mark.slow
def test_jit_and_vmap_change_nothing(key):
    posterior = _posterior()
    kl = functools.partial(mean_field_kl, prior=GaussianPrior())
    np.testing.assert_allclose(jax.jit(kl)(posterior), kl(posterior), rtol=1e-6)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), posterior, _posterior(1))
    np.testing.assert_allclose(jax.vmap(kl)(several), [kl(posterior), kl(_posterior(1))], rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
        jax.jit(sample_mean_field)(posterior, key),
        sample_mean_field(posterior, key),
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_in_float32_out(key, dtype):
    half = jax.tree.map(lambda x: x.astype(dtype), _posterior())
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    np.testing.assert_allclose(
        mean_field_kl(half, GaussianPrior()), mean_field_kl(wide, GaussianPrior()), rtol=1e-6
    )
    for leaf in jax.tree.leaves(
        (sample_mean_field(half, key), mean_field_scales(half), signal_to_noise(half))
    ):
        assert leaf.dtype == jnp.float32
    assert jax.tree.leaves(mean_field(half["mean"]))[0].dtype == jnp.float32


# --- pruning ---------------------------------------------------------------------------------------------


def test_signal_to_noise_is_the_ratio():
    posterior = _posterior(7, select=lambda path, leaf: path[-1] == "kernel")
    for path, ratio in flatten_paths(signal_to_noise(posterior)).items():
        mean = np.abs(flatten_paths(posterior["mean"])[path])
        scale = np.asarray(flatten_paths(mean_field_scales(posterior))[path])
        expected = mean / scale if path[-1] == "kernel" else np.full(mean.shape, np.inf)
        np.testing.assert_allclose(ratio, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.75, 1.0])
def test_prune_drops_the_lowest_ratios_of_the_whole_network(key, fraction):
    posterior = _posterior(8, select=lambda path, leaf: path[0] == "block" or path[-1] == "kernel")
    pruned = jax.jit(prune)(posterior, fraction=fraction)  # a traced fraction
    jax.tree.map(np.testing.assert_array_equal, pruned, prune(posterior, fraction=fraction))
    assert jax.tree.structure(pruned) == jax.tree.structure(posterior)
    ratios, kept = _flat(signal_to_noise(posterior)), _flat(pruned["mean"])
    random = np.isfinite(ratios)
    count = round(fraction * random.sum())
    dropped = np.argsort(ratios)[:count]
    expected = _flat(posterior["mean"])
    expected[dropped] = 0.0
    np.testing.assert_array_equal(kept, expected)
    assert (_flat(mean_field_scales(pruned))[dropped] == 0).all()
    assert (_flat(sample_mean_field(pruned, key))[dropped] == 0).all()
    # They add nothing to the KL, and the gradient of what is left is finite.
    m, s = _flat(pruned["mean"]), _flat(mean_field_scales(pruned))
    left = s > 0
    value, gradient = jax.value_and_grad(mean_field_kl)(pruned, GaussianPrior())
    terms = -np.log(s[left]) + (s[left] ** 2 + m[left] ** 2) / 2 - 0.5
    np.testing.assert_allclose(value, terms.sum(), rtol=1e-5, atol=1e-6)
    assert np.isfinite(_flat(gradient)).all()
    ratio = mean_field_log_ratio(pruned, sample_mean_field(pruned, key), GaussianPrior())
    assert np.isfinite(ratio)


def test_pruning_again_counts_what_is_gone():
    posterior = _posterior(9)
    twice = prune(prune(posterior, fraction=0.5), fraction=0.5)
    jax.tree.map(np.testing.assert_array_equal, twice, prune(posterior, fraction=0.5))


# --- moments of activations ------------------------------------------------------------------------------


def test_relu_moments_equal_quadrature():
    mean, variance = np.array([-2.0, 0.0, 0.7, 30.0]), np.array([0.5, 1.0, 4.0, 0.01])
    first, second = gaussian_moments(jnp.asarray(mean), jnp.asarray(variance))
    for i, (m, v) in enumerate(zip(mean, variance, strict=True)):
        x = m + np.sqrt(v) * np.linspace(-12, 12, 400_001)
        density = scipy.stats.norm.pdf(x, m, np.sqrt(v))
        np.testing.assert_allclose(first[i], np.trapezoid(np.maximum(x, 0) * density, x), rtol=1e-5)
        np.testing.assert_allclose(second[i], np.trapezoid(np.maximum(x, 0) ** 2 * density, x), rtol=3e-5)


def test_quadrature_is_exact_for_polynomials_and_good_for_tanh():
    mean, variance = jnp.array([0.3, -1.0]), jnp.array([0.5, 2.0])
    first, second = gaussian_moments(mean, variance, activation=jnp.square, nodes=3)
    m, v = np.asarray(mean), np.asarray(variance)
    np.testing.assert_allclose(first, m**2 + v, rtol=1e-6)
    np.testing.assert_allclose(second, m**4 + 6 * m**2 * v + 3 * v**2, rtol=1e-5)
    first, _ = gaussian_moments(mean, variance, activation=jnp.tanh)
    x = m[:, None] + np.sqrt(v)[:, None] * np.linspace(-10, 10, 100_001)
    density = scipy.stats.norm.pdf(x, m[:, None], np.sqrt(v)[:, None])
    np.testing.assert_allclose(first, np.trapezoid(np.tanh(x) * density, x, axis=1), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", jnp.tanh])
def test_moments_without_variance_are_the_function(activation):
    mean = jnp.array([-1.0, 0.0, 2.0])
    moments = functools.partial(gaussian_moments, activation=activation)
    first, second = moments(mean, jnp.zeros(3))
    value = np.maximum(mean, 0) if activation == "relu" else np.tanh(mean)
    np.testing.assert_allclose(first, value, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(second, value**2, rtol=1e-6, atol=1e-12)
    gradient = jax.grad(lambda m, v: moments(m, v)[0].sum() + moments(m, v)[1].sum(), argnums=(0, 1))
    assert np.isfinite(np.asarray(gradient(mean, jnp.zeros(3)))).all()


# --- trees and errors ------------------------------------------------------------------------------------


def test_paths_round_trip():
    tree = {"b": {"y": 1, "x": 2}, "a": 3, "empty": {}}
    assert list(flatten_paths(tree)) == [("a",), ("b", "x"), ("b", "y")]
    assert unflatten_paths(flatten_paths(tree)) == {"a": 3, "b": {"x": 2, "y": 1}}


def test_errors_say_what_is_wrong(key):
    posterior = _posterior()
    with pytest.raises(ValueError, match=r"scale must be above 0, got -1.*Dense_0"):
        mean_field(_params(), scale=-1.0)
    with pytest.raises(ValueError, match=r"scalar or have the shape \(4,\)"):
        mean_field(_params(), scale=lambda path, leaf: jnp.ones(7))
    with pytest.raises(ValueError, match=r"count.*int32.*deselect"):
        mean_field({"count": jnp.zeros(2, jnp.int32)})
    assert (
        mean_field({"n": jnp.zeros(2, jnp.int32)}, select=lambda p, x: False)["mean"]["n"].dtype == jnp.int32
    )
    with pytest.raises(ValueError, match="nested dicts, got ArrayImpl"):
        mean_field(jnp.zeros(3))
    with pytest.raises(ValueError, match=r'"mean" and "rho".*kernel'):
        mean_field_kl({"kernel": 1}, GaussianPrior())
    with pytest.raises(ValueError, match=r"\('w',\) of shape \(2,\).*\(3,\)"):
        sample_mean_field({"mean": {"w": jnp.zeros(3)}, "rho": {"w": jnp.zeros(2)}}, key)
    with pytest.raises(ValueError, match=r"ScaleMixturePrior has no closed form.*sampled"):
        mean_field_kl(posterior, ScaleMixturePrior())
    with pytest.raises(ValueError, match="leaves of the posterior's mean"):
        mean_field_log_ratio(posterior, {"Dense_0": _params()["Dense_0"]}, GaussianPrior())
    with pytest.raises(ValueError, match="prior's mean has no leaf"):
        mean_field_kl(posterior, GaussianPrior(mean={"Dense_0": _params()["Dense_0"]}))
    with pytest.raises(ValueError, match=r"prior's scale must be a scalar.*\(7,\)"):
        mean_field_kl(posterior, GaussianPrior(lambda path, leaf: jnp.ones(7)))
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        GaussianPrior(0.0)
    with pytest.raises(ValueError, match=r"weight must lie in \(0, 1\), got 1.0"):
        ScaleMixturePrior(1.0)
    with pytest.raises(ValueError, match="scale_1 and scale_2"):
        ScaleMixturePrior(0.5, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\], got 75"):
        prune(posterior, fraction=75)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        gaussian_moments(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="gelu"):
        gaussian_moments(jnp.zeros(2), jnp.zeros(2), activation="gelu")
    with pytest.raises(ValueError, match="nodes"):
        gaussian_moments(jnp.zeros(2), jnp.zeros(2), activation=jnp.tanh, nodes=0)


@pytest.mark.slow
def test_a_prior_scale_that_is_not_positive_is_refused():
    posterior = mean_field({"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="the prior's scale must be above 0"):
        mean_field_kl(posterior, GaussianPrior(lambda path, leaf: -1.0))
