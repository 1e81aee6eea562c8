"""Bounds over a split: every example once, with noise of its own; the exact likelihood of PCA."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vaesr import data, evaluators, objectives

COUNT = 420  # a full batch of evaluation and a part of one, once split


def _encode(params, x):
    features = x.reshape(x.shape[0], -1) @ params
    return features[:, :2], features[:, 2:]


def _decode(params, z):
    return (z @ params[:, :2].T).reshape(-1, 2, 3, 1)


BOUND = functools.partial(objectives.evaluate_bound, _encode, _decode, objectives.BernoulliLikelihood())


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    pixels = np.random.default_rng(0).integers(0, 256, size=(COUNT, 2, 3, 1), dtype=np.uint8)
    np.save(folder / "train.npy", pixels)
    return data.open_bank(f"npy:{folder / 'train.npy'}", cache_dir=folder / "cache", progress=False)


@pytest.fixture(scope="module")
def params():
    return jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 7])
def test_means_are_over_every_example_once(limit, bank, params):
    measure = evaluators.compile_bound(BOUND, binarisation="none")
    found = evaluators.mean_bounds(bank, measure, params, "train", samples=5, limit=limit)
    index = bank.split("train")
    assert len(index) > 250
    if limit:
        index = index[np.arange(limit) * len(index) // limit]  # spread over the split
    images = bank.pixels[index].astype(np.float32) / 255
    key = jax.random.fold_in(jax.random.key(1), 0)
    expected = BOUND(params, jnp.asarray(images), key=key, samples=5)
    for name in ("elbo_nats", "kl_nats", "reconstruction_nats", "effective_samples"):
        np.testing.assert_allclose(found[name], getattr(expected, name).mean(), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["bound_5_nats"], expected.bound_nats.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["bits_per_dim"], -found["elbo_nats"] / 6 / math.log(2), rtol=1e-6)


def test_one_sample_gives_no_bound_and_a_second_call_the_same(bank, params):
    measure = evaluators.compile_bound(BOUND, binarisation="dynamic")
    first, second = (evaluators.mean_bounds(bank, measure, params, "validation", samples=1) for _ in range(2))
    assert first == second and set(first) == {"elbo_nats", "kl_nats", "reconstruction_nats", "bits_per_dim"}


def test_drawings_are_averaged_for_each_image(bank, params):
    measure = evaluators.compile_bound(BOUND, binarisation="dynamic")
    mean = functools.partial(evaluators.mean_bounds, bank, measure, params, "validation", samples=1)

    def only(number):  # the drawing of that number alone
        again = lambda *args, drawing, **how: measure(*args, drawing=drawing + number, **how)
        return evaluators.mean_bounds(bank, again, params, "validation", samples=1)["elbo_nats"]

    drawn = [only(number) for number in range(3)]
    assert len(set(drawn)) == 3 and drawn[0] == mean()["elbo_nats"]
    found = mean(drawings=3, errors=True)
    assert found["elbo_nats"] == pytest.approx(np.mean(drawn))
    each = evaluators.bounds_of_images(
        bank, measure, params, "validation", samples=1, drawings=3
    )["elbo_nats"]  # fmt: skip
    assert found["elbo_se_nats"] == pytest.approx(each.std(ddof=1) / math.sqrt(len(each)))


def test_posteriors_and_labels_are_of_the_split(bank, params):
    mean_q, log_var_q = evaluators.posteriors(bank, jax.jit(_encode), params, "train", binarisation="none")
    images = bank.pixels[bank.split("train")].astype(np.float32) / 255
    expected = _encode(params, jnp.asarray(images))
    np.testing.assert_allclose(mean_q, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var_q, expected[1], rtol=1e-4, atol=1e-5)
    assert evaluators.split_labels(bank, "train") is None


def test_measured_bits_are_the_same_every_time(bank):
    def drawn():
        batches = evaluators.split_batches(bank, "train")
        return np.concatenate([evaluators.measured_images(b, binarisation="dynamic") for b in batches])

    bits = drawn()
    np.testing.assert_array_equal(bits, drawn())
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert not np.array_equal(bits[:250], bits[250:500])  # positions go on over the batches


def test_the_exact_likelihood_of_pca_is_that_of_its_gaussian(bank):
    x = bank.pixels[bank.split("train")].reshape(-1, 6) / 255
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-2].mean()  # two latents keep the two largest directions
    covariance = vectors @ np.diag([*[noise] * 4, *values[-2:]]) @ vectors.T
    expected = scipy.stats.multivariate_normal(x.mean(axis=0), covariance).logpdf(x).mean()
    np.testing.assert_allclose(
        evaluators.exact_pca_log_likelihood(bank, "train", latent=2), expected, rtol=1e-5
    )
