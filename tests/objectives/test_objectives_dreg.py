"""DReG and sticking-the-landing gradients against slow implementations, exact posteriors and their theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.flops import count
from vaesr.distributions import example_keys, example_normal
from vaesr.objectives import BernoulliLikelihood, GaussianLikelihood, elbo, iwae

GRADIENTS = ("pathwise", "dreg", "stl")

# --- a small nonlinear model, and the estimators written out term by term --------------------------------

LATENT, PIXELS, EXAMPLES, SAMPLES = 3, 5, 2, 4


def _encode(params, x):
    features = jnp.tanh(x @ params["in"]["features"])
    return features @ params["in"]["mean"], features @ params["in"]["log_var"]


def _decode(params, z):
    return jnp.tanh(z @ params["out"]["hidden"]) @ params["out"]["logits"]


@pytest.fixture
def setup():
    generator = np.random.default_rng(0)

    def weights(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    params = {
        "in": {"features": weights(PIXELS, 6), "mean": weights(6, LATENT), "log_var": weights(6, LATENT)},
        "out": {"hidden": weights(LATENT, 6), "logits": weights(6, PIXELS)},
    }
    images = jnp.asarray(generator.random((EXAMPLES, PIXELS)) > 0.5, jnp.float32)
    return {"vae": params}, {"image": images, "position": jnp.arange(EXAMPLES)}


def _gradient(objective, params, batch, key):
    return jax.jit(jax.grad(objective, has_aux=True))(params, {}, batch, key=key, step=0)[0]


def _slow_gradient(params, images, key, *, power):
    """Sample after sample: the decoder's derivative and the path's, each with a pass of its own."""
    keys = example_keys(jax.random.fold_in(key, 0), jnp.arange(EXAMPLES))
    total = jax.tree.map(lambda x: np.zeros(x.shape), params)

    def latent(encoder, image, noise):
        mean_q, log_var_q = _encode({"in": encoder}, image[None])
        return mean_q[0] + jnp.exp(log_var_q[0] / 2) * noise

    def log_weight(decoder, z, image, mean_q, log_var_q):
        logits = _decode({"out": decoder}, z[None])[0]
        log_likelihood = (
            image * jax.nn.log_sigmoid(logits) + (1 - image) * jax.nn.log_sigmoid(-logits)
        ).sum()
        log_prior = jax.scipy.stats.norm.logpdf(z).sum()
        return (
            log_likelihood + log_prior - jax.scipy.stats.norm.logpdf(z, mean_q, jnp.exp(log_var_q / 2)).sum()
        )

    for image, example_key in zip(images, keys, strict=True):
        mean_q, log_var_q = (array[0] for array in _encode(params, image[None]))
        terms = []
        for sample in range(SAMPLES):
            noise = example_normal(jax.random.fold_in(example_key, sample)[None], (LATENT,))[0]
            z = latent(params["in"], image, noise)
            data = (params["out"], z, image, mean_q, log_var_q)
            by_decoder, by_z = (jax.grad(log_weight, argnums=n)(*data) for n in (0, 1))
            by_encoder = jax.vjp(functools.partial(latent, image=image, noise=noise), params["in"])[1](by_z)[
                0
            ]
            terms.append((float(log_weight(*data)), by_decoder, by_encoder))
        weights = np.exp(np.array([term[0] for term in terms]) - max(term[0] for term in terms))
        weights = weights / weights.sum()
        for weight, (_, by_decoder, by_encoder) in zip(weights, terms, strict=True):
            step = {
                "out": jax.tree.map(lambda g, w=weight: w * np.asarray(g), by_decoder),
                "in": jax.tree.map(lambda g, w=weight: w**power * np.asarray(g), by_encoder),
            }
            total = jax.tree.map(lambda t, s: t - s / EXAMPLES, total, step)
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("gradient", "power"), [("dreg", 2), ("stl", 1)])
def test_equals_the_estimator_written_out(gradient, power, setup, key):
    params, batch = setup
    objective = iwae(_encode, _decode, BernoulliLikelihood(), samples=SAMPLES, gradient=gradient)
    slow = _slow_gradient(params["vae"], batch["image"], key, power=power)
    fast = _gradient(objective, params, batch, key)["vae"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), fast, slow)


@pytest.mark.slow
def test_value_and_metrics_are_those_of_the_plain_bound(setup, key):
    params, batch = setup
    plain, *others = (
        jax.jit(iwae(_encode, _decode, BernoulliLikelihood(), samples=7, gradient=gradient))(
            params, {"kept": jnp.ones(1)}, batch, key=key, step=0
        )
        for gradient in GRADIENTS
    )
    dreg, stl = others
    np.testing.assert_allclose(dreg[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(stl[0], plain[0], rtol=1e-6)
    assert dreg[1].metrics.keys() == stl[1].metrics.keys() == plain[1].metrics.keys()
    for name, value in plain[1].metrics.items():
        np.testing.assert_allclose(dreg[1].metrics[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(dreg[1].variables["kept"], [1.0])


@pytest.mark.slow
def test_the_decoders_gradient_is_the_plain_one(setup, key):
    params, batch = setup
    plain, dreg, stl = (
        _gradient(
            iwae(_encode, _decode, BernoulliLikelihood(), samples=6, gradient=gradient), params, batch, key
        )
        for gradient in GRADIENTS
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, dreg["vae"]["out"], plain["vae"]["out"])
    jax.tree.map(close, stl["vae"]["out"], plain["vae"]["out"])
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), dreg["vae"]["in"], plain["vae"]["in"])
    assert max(jax.tree.leaves(difference)) > 1e-2


@pytest.mark.slow
def test_with_one_sample_it_is_sticking_the_landing(setup, key):
    params, batch = setup
    one = [
        _gradient(
            iwae(_encode, _decode, BernoulliLikelihood(), samples=1, gradient=gradient), params, batch, key
        )
        for gradient in ("dreg", "stl")
    ]
    one.append(_gradient(elbo(_encode, _decode, BernoulliLikelihood(), gradient="stl"), params, batch, key))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, one[0], one[1])
    jax.tree.map(close, one[0], one[2])


@pytest.mark.slow
def test_the_gradient_scales_with_what_comes_back(setup, key):
    params, batch = setup
    objective = iwae(_encode, _decode, BernoulliLikelihood(), samples=3, gradient="dreg")

    def loss(params):
        return objective(params, {}, batch, key=key, step=0)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    squared = jax.jit(jax.grad(lambda params: loss(params) ** 2))(params)
    jax.tree.map(
        lambda s, g: np.testing.assert_allclose(s, 2 * value * g, rtol=1e-4, atol=1e-5), squared, gradient
    )
    plain = jax.grad(loss)(params)  # not compiled
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, gradient)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["dreg", "stl"])
def test_splits_and_maps_like_the_plain_one(gradient, setup, key):
    params, batch = setup
    objective = iwae(
        _encode, _decode, BernoulliLikelihood(), samples=3, gradient=gradient, binarisation="dynamic"
    )
    whole = _gradient(objective, params, batch, key)
    parts = [
        _gradient(objective, params, jax.tree.map(lambda x, i=i: x[i : i + 1], batch), key) for i in (0, 1)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, mean, whole)

    def one(key):
        return jax.grad(objective, has_aux=True)(params, {}, batch, key=key, step=0)[0]

    mapped = jax.jit(jax.vmap(one))(jnp.stack([key, jax.random.fold_in(key, 5)]))
    jax.tree.map(lambda m, w: close(m[0], w), mapped, whole)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_images(dtype, setup, key):
    params, batch = setup
    batch = batch | {"image": batch["image"].astype(dtype)}
    objective = iwae(_encode, _decode, BernoulliLikelihood(), samples=3, gradient="dreg")
    (loss, _), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        params, {}, batch, key=key, step=0
    )
    assert loss.dtype == jnp.float32
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_decoder_runs_once(setup, key):
    """Matrix products of a gradient: one pass forward and one back, as for the plain bound."""
    params, batch = setup
    plain, dreg, stl = (
        count(
            jax.grad(
                iwae(_encode, _decode, BernoulliLikelihood(), samples=8, gradient=gradient), has_aux=True
            ),
            params, {}, batch, key=key, step=0,
        )
        for gradient in GRADIENTS
    )  # fmt: skip
    decoder = 2 * 8 * EXAMPLES * (LATENT * 6 + 6 * PIXELS)
    assert dreg.by_primitive["dot_general"] == stl.by_primitive["dot_general"]
    assert dreg.by_primitive["dot_general"] == plain.by_primitive["dot_general"]
    assert 3 * decoder < dreg.by_primitive["dot_general"] < 4 * decoder


# --- linear-Gaussian models: x | z ~ N(W z, I), the columns of W orthogonal -------------------------------

W = np.array([[1.0, 0.0], [0.5, 0.0], [0.0, -0.8], [0.0, 0.6]])
X = np.array([[1.0, -0.5, 0.3, 2.0]])


def _linear_encode(params, x):
    mean_q = x @ params["to_latent"]
    return mean_q, jnp.broadcast_to(params["log_var"][None], mean_q.shape)


def _linear_decode(params, z):
    return z @ params["to_data"]


def _linear_params(error=0.0):
    """The exact posterior N(M⁻¹ Wᵀ x, M⁻¹), M = WᵀW + I, its parameters off by an error."""
    precision = 1 + (W**2).sum(axis=0)
    tree = {
        "to_latent": W / precision + error * np.array([1.0, -1.0]),
        "log_var": -np.log(precision) + 2 * error,
        "to_data": W.T,
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


@functools.cache
def _linear_gradients(factory, samples, gradient, replicates):
    """Encoder gradients `[replicates, parameters]` with a wrong posterior, one per key."""
    objective = factory(
        _linear_encode, _linear_decode, GaussianLikelihood(), samples=samples, gradient=gradient
    )
    batch = {"image": jnp.asarray(X, jnp.float32)}

    def one(key):
        found = jax.grad(objective, has_aux=True)({"vae": _linear_params(0.1)}, {}, batch, key=key, step=0)[0]
        return jnp.concatenate([found["vae"]["to_latent"].ravel(), found["vae"]["log_var"]])

    keys = jax.random.split(jax.random.key(samples), replicates)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(keys), np.float64)


def _z_scores(first, second):
    error = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
    return np.abs(first.mean(axis=0) - second.mean(axis=0)) / error


@pytest.mark.slow
def test_dreg_has_the_mean_of_the_plain_gradient():
    plain, dreg, stl = (_linear_gradients(iwae, 5, gradient, 16_000) for gradient in GRADIENTS)
    assert _z_scores(plain, dreg).max() < 4
    assert _z_scores(plain, stl).max() > 10  # which is biased: the test would notice
    assert (dreg.var(axis=0) < plain.var(axis=0)).all()


@pytest.mark.slow
def test_sticking_the_landing_has_the_mean_of_the_elbos_gradient():
    plain, stl = (_linear_gradients(elbo, 2, gradient, 16_000) for gradient in ("pathwise", "stl"))
    assert _z_scores(plain, stl).max() < 4


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "gradient"), [(iwae, "dreg"), (iwae, "stl"), (elbo, "stl")])
def test_an_exact_posterior_gets_no_gradient(factory, gradient, key):
    batch = {"image": jnp.asarray(X, jnp.float32)}
    build = functools.partial(factory, _linear_encode, _linear_decode, GaussianLikelihood(), samples=4)
    params = {"vae": _linear_params()}
    landed = _gradient(build(gradient=gradient), params, batch, key)["vae"]
    plain = _gradient(build(), params, batch, key)["vae"]
    for name in ("to_latent", "log_var"):
        assert np.abs(landed[name]).max() < 1e-6
        assert np.abs(plain[name]).max() > 0.05
    assert np.abs(landed["to_data"]).max() > 0.05


@pytest.mark.slow
def test_signal_to_noise_falls_for_the_plain_gradient_and_rises_for_dreg():
    """Slopes of log SNR against log K: -1/2 and +1/2 in the limit (Rainforth et al. 2018), ±0.2 here."""
    counts = (4, 16, 64)

    def slope(gradient):
        ratios = []
        for samples in counts:
            drawn = _linear_gradients(iwae, samples, gradient, 5000)
            ratios.append(np.median(np.abs(drawn.mean(axis=0)) / drawn.std(axis=0)))
        return np.polyfit(np.log(counts), np.log(ratios), 1)[0]

    assert -0.7 < slope("pathwise") < -0.3
    assert 0.3 < slope("dreg") < 0.7


@pytest.mark.parametrize(
    ("factory", "knobs", "message"),
    [
        (iwae, {"gradient": "double"}, "gradient must be one of pathwise, dreg, stl, got 'double'"),
        (elbo, {"gradient": "dreg"}, "gradient must be one of pathwise, stl, got 'dreg'"),
        (iwae, {"gradient": "dreg", "samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_wrong_knobs_are_refused_when_built(factory, knobs, message):
    with pytest.raises(ValueError, match=message):
        factory(_encode, _decode, BernoulliLikelihood(), **knobs)


def test_free_bits_are_refused_where_the_kl_is_sampled():
    with pytest.raises(ValueError, match='free_bits_nats must be 0 with gradient "stl"'):
        elbo(None, None, None, gradient="stl", free_bits_nats=0.5)
