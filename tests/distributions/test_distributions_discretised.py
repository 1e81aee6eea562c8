"""Logistic, discretised and mixture distributions: scipy, sampling frequencies, temperature, keys, means."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vaesr.distributions import (
    DiscretisedLogistic,
    DiscretisedNormal,
    Logistic,
    LogisticMixture,
    Normal,
    example_keys,
)

DRAWS = 20_000
KINDS = (DiscretisedLogistic, DiscretisedNormal, Logistic)


def _keys_of(key: jax.Array, count: int) -> jax.Array:
    return example_keys(key, jnp.arange(count))


def _keys(count: int, seed: int = 0) -> jax.Array:
    return _keys_of(jax.random.key(seed), count)


def _parameters(seed: int, shape: tuple[int, ...], mixtures: int, channels: int) -> jax.Array:
    width = mixtures * (3 if channels == 1 else 10)
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, width)), jnp.float32)


def _assert_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """A chi-square test over the cells with at least five expected draws, the others pooled."""
    probabilities = np.asarray(probabilities, np.float64)
    expected = probabilities * counts.sum()
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    held = expected > 0.5
    assert not observed[~held].any()
    statistic = ((observed - expected)[held] ** 2 / expected[held]).sum()
    assert scipy.stats.chi2.sf(statistic, held.sum() - 1) > 1e-4


# --- the continuous logistic -------------------------------------------------------------------------------


@pytest.mark.slow
def test_logistic_log_prob_equals_scipy():
    generator = np.random.default_rng(0)
    mean, log_scale, value = (generator.normal(size=(3, 4)).astype(np.float32) for _ in range(3))
    value[0, 0], value[0, 1] = 1e4, -1e4
    scale = np.exp(np.float64(log_scale))
    expected = scipy.stats.logistic.logpdf(np.float64(value), mean, scale)
    np.testing.assert_allclose(Logistic(mean, log_scale).log_prob(value), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda m, s: Logistic(m, s).log_prob(value).sum(), argnums=(0, 1))(mean, log_scale)
    assert all(np.isfinite(g).all() for g in gradient)


@pytest.mark.slow
def test_logistic_samples_follow_the_distribution_and_the_temperature():
    distribution = Logistic(jnp.full((DRAWS, 1), 0.5), jnp.float32(-1.0))
    for temperature in (1.0, 0.5):
        draws = distribution.sample_examples(_keys(DRAWS), temperature=temperature)[:, 0]
        cdf = scipy.stats.logistic(0.5, temperature * np.exp(-1.0)).cdf
        assert scipy.stats.kstest(np.asarray(draws, np.float64), cdf).pvalue > 1e-4
    draws = Logistic(jnp.full(DRAWS, 0.5), jnp.float32(-1.0)).sample(jax.random.key(1))
    cdf = scipy.stats.logistic(0.5, np.exp(-1.0)).cdf
    assert scipy.stats.kstest(np.asarray(draws, np.float64), cdf).pvalue > 1e-4


def test_logistic_samples_carry_the_pathwise_gradient():
    """d E[x²] / d mean = 2 mean, d E[x²] / d log_scale = 2 π² s² / 3."""
    mean, log_scale = jnp.float32(0.7), jnp.float32(-0.5)

    def second_moment(mean, log_scale):
        draws = Logistic(jnp.full((DRAWS, 1), mean), log_scale).sample_examples(_keys(DRAWS))
        return jnp.square(draws).mean()

    by_mean, by_scale = jax.grad(second_moment, argnums=(0, 1))(mean, log_scale)
    np.testing.assert_allclose(by_mean, 1.4, atol=4 * 2 * 1.1 / np.sqrt(DRAWS))
    np.testing.assert_allclose(by_scale, 2 * np.pi**2 * np.exp(-1.0) / 3, rtol=0.1)


# --- samples against probabilities -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DiscretisedLogistic, DiscretisedNormal])
@pytest.mark.parametrize(("mean", "log_scale", "bits"), [(0.1, -2.0, 5), (-0.95, -1.0, 4), (1.2, -1.5, 8)])
def test_samples_have_the_probabilities_of_the_levels(kind, mean, log_scale, bits):
    levels = jnp.arange(2**bits, dtype=jnp.float32) / (2**bits - 1)
    one = kind(jnp.full(2**bits, mean), jnp.float32(log_scale), bits=bits)
    draws = kind(jnp.full((DRAWS, 1), mean), jnp.float32(log_scale), bits=bits).sample_examples(_keys(DRAWS))
    drawn = np.asarray(draws * (2**bits - 1), np.float64).ravel()
    np.testing.assert_allclose(drawn, np.round(drawn), atol=1e-4)
    counts = np.bincount(np.round(drawn).astype(int), minlength=2**bits)
    _assert_frequencies(counts, np.exp(one.log_prob(levels)))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_samples_have_the_joint_probabilities(channels):
    bits, mixtures = 2, 3
    parameters = _parameters(channels, (1,), mixtures, channels)
    build = functools.partial(LogisticMixture, mixtures=mixtures, bits=bits)
    colours = np.array(list(itertools.product(range(4), repeat=channels)), np.float32) / 3
    of_all = build(jnp.tile(parameters, (len(colours), 1))).log_prob(colours)
    draws = jax.jit(lambda p, k: build(p).sample_examples(k))(jnp.tile(parameters, (DRAWS, 1)), _keys(DRAWS))
    digits = np.round(np.asarray(draws) * 3).astype(int)
    counts = np.bincount(digits @ (4 ** np.arange(channels)[::-1]), minlength=4**channels)
    _assert_frequencies(counts, np.exp(of_all))


@pytest.mark.slow
def test_temperature_narrows_the_mixture_down_to_its_likeliest_component():
    parameters = jnp.tile(_parameters(0, (1,), 4, 3), (2000, 1))
    mixture = LogisticMixture(parameters, mixtures=4)
    sample = jax.jit(LogisticMixture.sample_examples)
    spread = [
        np.asarray(sample(mixture, _keys(2000), temperature=t)).std(axis=0).mean() for t in (1.0, 0.3, 0.0)
    ]
    assert spread[0] > 1.3 * spread[1] and spread[2] < 1e-5
    best = int(parameters[0, :4].argmax())
    red = np.clip(0.5 * float(parameters[0, 4 + best]) + 0.5, 0, 1)
    cold = sample(mixture, _keys(2000), temperature=0.0)[0, 0]
    assert abs(float(cold) - red) <= 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_an_examples_sample_depends_on_its_key_alone():
    parameters = _parameters(0, (4, 2, 2), 2, 3)
    keys = _keys(4)

    def mixture(parameters, keys):
        return LogisticMixture(parameters, mixtures=2).sample_examples(keys)

    for sample in (mixture, *(functools.partial(_sample_of_means, kind) for kind in KINDS)):
        whole = jax.jit(sample)(parameters, keys)
        np.testing.assert_array_equal(whole[2:], jax.jit(sample)(parameters[2:], keys[2:]))
    with pytest.raises(ValueError, match=r"keys \(3,\) must hold one key per example"):
        mixture(parameters, keys[:3])


def _sample_of_means(kind, parameters, keys):
    return kind(parameters[..., 0], jnp.float32(-1.0)).sample_examples(keys)


# --- means -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_mean_image_is_the_mean_of_the_samples():
    generator = np.random.default_rng(0)
    parameters = 0.3 * generator.normal(size=(6, 20)).astype(np.float32)
    parameters[:, [4, 5, 10, 11, 16, 17]] -= 3.0  # narrow, away from black and white: no clipping
    mixture = lambda p: LogisticMixture(p, mixtures=2)
    sample = jax.jit(jax.vmap(lambda key: mixture(parameters).sample_examples(_keys_of(key, 6))))
    draws = sample(jax.random.split(jax.random.key(0), 4000))
    error = 4 * np.asarray(draws).std(axis=0) / np.sqrt(4000) + 2e-3
    assert (np.abs(draws.mean(axis=0) - mixture(parameters).mean_image) < error).all()


@pytest.mark.slow
def test_mean_images_stay_in_range_and_equal_the_mean_parameter():
    mean = jnp.array([[-3.0, -1.0, 0.0, 0.5, 1.0, 3.0]])
    for kind in (DiscretisedLogistic, DiscretisedNormal):
        np.testing.assert_allclose(
            kind(mean, jnp.float32(0.0)).mean_image, [[0.0, 0.0, 0.5, 0.75, 1.0, 1.0]], atol=1e-6
        )
    image = LogisticMixture(5.0 * _parameters(1, (2, 3, 3), 5, 3), mixtures=5).mean_image
    assert image.shape == (2, 3, 3, 3) and image.min() >= 0 and image.max() <= 1
    grey = LogisticMixture(_parameters(1, (2, 3, 3), 5, 1), mixtures=5).mean_image
    assert grey.shape == (2, 3, 3, 1)


# --- conventions -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_they_are_pytrees_that_pass_through_jit_and_vmap():
    parameters = _parameters(0, (3, 2), 2, 3)
    value = jnp.zeros((3, 2, 3))
    mixture = LogisticMixture(parameters, mixtures=2, bits=5)
    plain = mixture.log_prob(value)
    np.testing.assert_allclose(jax.jit(lambda d: d.log_prob(value))(mixture), plain, rtol=1e-5)
    assert [leaf.shape for leaf in jax.tree.leaves(mixture)] == [(3, 2, 20)]
    doubled = jax.tree.map(lambda x: jnp.stack([x, x]), mixture)
    np.testing.assert_allclose(jax.vmap(lambda d: d.log_prob(value))(doubled)[1], plain, rtol=1e-5)
    logistic = DiscretisedLogistic(parameters[..., 0], parameters[..., 1], edges="nvae")
    rebuilt = jax.tree.unflatten(jax.tree.structure(logistic), jax.tree.leaves(logistic))
    assert rebuilt.edges == "nvae"


@pytest.mark.slow
def test_narrow_bins_of_the_discretised_normal_approach_the_density():
    x = jnp.linspace(0.1, 0.9, 9)
    fine = DiscretisedNormal(jnp.zeros(9), jnp.float32(-1.0), bits=12).log_prob(x)
    density = Normal(jnp.zeros(9), jnp.float32(-2.0)).log_prob(2.0 * x - 1.0)
    np.testing.assert_allclose(fine - np.log(2.0 / 4095), density, atol=3e-3)


@pytest.mark.slow
def test_wrong_arguments_are_refused():
    zeros = jnp.zeros((2, 3))
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"value must have the shape of mean \(2, 3\), got \(2, 2\)"):
            kind(zeros, zeros).log_prob(zeros[:, :2])
        with pytest.raises(ValueError, match="log_scale must be a scalar or have the shape"):
            kind(zeros, zeros[0]).log_prob(zeros)
        with pytest.raises(ValueError, match=r"keys \(3,\) must hold one key per example"):
            kind(zeros, zeros).sample_examples(_keys(3))
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16, got 17"):
        DiscretisedNormal(zeros, zeros, bits=17).sample_examples(_keys(2))
    with pytest.raises(ValueError, match="edges must be one of exact, nvae, got 'x'"):
        DiscretisedLogistic(zeros, zeros, edges="x").log_prob(zeros)
