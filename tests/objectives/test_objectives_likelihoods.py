"""What decoders' outputs mean: likelihood, mean and samples agree with each other; the model's heads fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses
from vaesr.distributions import example_keys
from vaesr.models.pixel_outputs import LIKELIHOODS, mean_of_outputs, output_channels, to_outputs
from vaesr.objectives import (
    BernoulliLikelihood,
    DiscretisedGaussianLikelihood,
    DiscretisedLogisticLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    LogisticMixtureLikelihood,
    elbo,
    evaluate_bound,
)

OF_HEAD = {
    "bernoulli": BernoulliLikelihood(),
    "gaussian": GaussianLikelihood(0.1),
    "gaussian_learned": LearnedGaussianLikelihood(),
    "discretised_logistic": DiscretisedLogisticLikelihood(),
    "discretised_gaussian": DiscretisedGaussianLikelihood(),
    "logistic_mixture": LogisticMixtureLikelihood(mixtures=3),
}
heads = pytest.mark.parametrize("name", LIKELIHOODS)


def _outputs(name: str, batch: int, colours: int = 3, seed: int = 0):
    channels = output_channels(name, colours, mixtures=3)
    pixels = 0.5 * np.random.default_rng(seed).normal(size=(batch, 2, 2, channels))
    return to_outputs(name, jnp.asarray(pixels, jnp.float32), log_scale=jnp.float32(-2.0))


def test_every_head_has_a_likelihood():
    assert set(OF_HEAD) == set(LIKELIHOODS)


@heads
@pytest.mark.parametrize("colours", [1, 3])
def test_a_head_fits_its_likelihood(name, colours):
    outputs = _outputs(name, 4, colours)
    likelihood = OF_HEAD[name]
    x = jnp.round(jnp.full((4, 2, 2, colours), 0.3) * 255) / 255
    nll = jax.jit(likelihood.nll)(outputs, x)
    assert nll.shape == (4,) and nll.dtype == jnp.float32 and np.isfinite(nll).all()
    mean = jax.jit(likelihood.mean)(outputs)
    assert mean.shape == x.shape and mean.dtype == jnp.float32
    np.testing.assert_allclose(mean_of_outputs(name, outputs, mixtures=3), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@heads
def test_samples_have_the_mean_and_the_probability_of_the_likelihood(name):
    """The average of the samples is the mean; their average negative log-likelihood is the entropy, which
    is least at the true outputs."""
    count = 4000
    tile = lambda leaf: leaf if leaf.ndim == 0 else jnp.repeat(leaf, count, axis=0)
    outputs = _outputs(name, 1)
    if name in ("discretised_logistic", "discretised_gaussian"):
        outputs = (0.3 * outputs[0], outputs[1] - 2.5)  # away from black and white, where the mean is clipped
    many = jax.tree.map(tile, outputs)
    likelihood = OF_HEAD[name]
    samples = jax.jit(likelihood.sample)(many, example_keys(jax.random.key(0), jnp.arange(count)))
    assert samples.shape == (count, 2, 2, 3) and samples.dtype == jnp.float32
    if name != "logistic_mixture":  # whose mean image leaves the clipping out
        error = 4 * np.asarray(samples).std(axis=0) / np.sqrt(count) + 1e-3
        assert (np.abs(samples.mean(axis=0) - likelihood.mean(outputs)[0]) < error).all()
    own = likelihood.nll(many, samples)
    wrong = likelihood.nll(jax.tree.map(lambda leaf: leaf + 0.3, many), samples)
    difference = np.asarray(wrong - own, np.float64)
    assert difference.mean() > 4 * difference.std() / np.sqrt(count)


@heads
def test_a_sample_depends_on_its_own_key_alone(name):
    keys = example_keys(jax.random.key(1), jnp.arange(4))
    outputs = _outputs(name, 4)
    part = jax.tree.map(lambda leaf: leaf[2:] if leaf.ndim else leaf, outputs)
    sample = jax.jit(OF_HEAD[name].sample)
    np.testing.assert_array_equal(sample(outputs, keys)[2:], sample(part, keys[2:]))


@pytest.mark.slow
def test_the_knobs_reach_the_losses():
    mean, log_scale = _outputs("discretised_logistic", 2)
    parameters = _outputs("logistic_mixture", 2)
    x = jnp.full((2, 2, 2, 3), 254 / 255)
    knobs = {"bits": 5, "min_log_scale": -1.0}
    np.testing.assert_array_equal(
        DiscretisedLogisticLikelihood(**knobs).nll((mean, log_scale - 3.0), x),
        losses.discretised_logistic_nll(mean, log_scale - 3.0, x, **knobs),
    )
    np.testing.assert_array_equal(
        DiscretisedGaussianLikelihood(**knobs).nll((mean, log_scale - 3.0), x),
        losses.discretised_gaussian_nll(mean, log_scale - 3.0, x, **knobs),
    )
    for edges in ("exact", "nvae"):
        np.testing.assert_array_equal(
            LogisticMixtureLikelihood(3, edges=edges).nll(parameters, x),
            losses.logistic_mixture_nll(parameters, x, mixtures=3, edges=edges),
        )
    nvae = DiscretisedLogisticLikelihood(edges="nvae").nll((mean, log_scale), x)
    exact = DiscretisedLogisticLikelihood().nll((mean, log_scale), x)
    assert (nvae < exact).all()  # the defect only adds mass


def test_bad_knobs_are_refused_when_the_likelihood_is_made():
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16, got 0"):
        DiscretisedGaussianLikelihood(bits=0)
    with pytest.raises(ValueError, match="edges must be one of exact, nvae, got 'tf'"):
        DiscretisedLogisticLikelihood(edges="tf")
    with pytest.raises(ValueError, match="mixtures must be at least 1, got 0"):
        LogisticMixtureLikelihood(0)
    with pytest.raises(ValueError, match="needs images of 1 or 3 channels"):
        output_channels("logistic_mixture", 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discretised_logistic", "discretised_gaussian", "logistic_mixture"])
def test_the_bound_of_grey_levels_is_a_bound_of_a_probability(name, key):
    """A decoder that ignores z: the ELBO is minus the KL plus the exact log-probability, below 0."""
    outputs = _outputs(name, 1)
    tile = lambda z: jax.tree.map(lambda leaf: jnp.repeat(leaf, z.shape[0], axis=0), outputs)
    x = jnp.round(jax.random.uniform(key, (3, 2, 2, 3)) * 255) / 255
    encode = lambda params, x: (jnp.full((3, 2), 0.5), jnp.zeros((3, 2)))
    decode = lambda params, z: tile(z)
    estimate = evaluate_bound(encode, decode, OF_HEAD[name], None, x, key=key, samples=4)
    exact = OF_HEAD[name].nll(tile(x), x)
    np.testing.assert_allclose(estimate.elbo_nats, -exact - 0.25, rtol=1e-5)
    objective = jax.jit(functools.partial(elbo(encode, decode, OF_HEAD[name]), key=key, step=0))
    _, aux = objective({"vae": None}, {}, {"image": x})
    bits = (exact.mean() + 0.25) / (12 * np.log(2))
    np.testing.assert_allclose(aux.metrics["bits_per_dim"], bits, rtol=1e-5)
