"""Bounds of several stochastic layers, against a two-level linear-Gaussian model with exact evidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vaesr.models.hierarchical_vae import HierarchicalVAE
from vaesr.objectives import BernoulliLikelihood, LearnedGaussianLikelihood, elbo, evaluate_bound, iwae

# --- z_2 ~ N(0, I), z_1 ~ N(A z_2 + b, s_1²), x ~ N(W z_1 + c, s²): A diagonal, W's columns orthogonal ----

A, B, S1 = np.array([1.5, -0.7]), np.array([0.3, -0.2]), 0.6
W = np.array([[1.0, 0.5, 0.0, 0.2], [0.4, -0.8, 0.6, 0.0]])  # z_1 @ W
C, S = np.array([0.1, 0.0, -0.3, 0.5]), 0.4
GRAM = (W**2).sum(axis=1)
IMAGES = np.random.default_rng(0).normal(size=(6, 2, 2, 1)) + 0.5
INFERENCE = ("bottom_up", "top_down")


def _model(inference):
    return HierarchicalVAE(
        latents=(2, 2), hidden=((), ()), inference=inference, image_shape=(2, 2, 1),
        likelihood="gaussian_learned", precision="highest",
    )  # fmt: skip


def _evidence():
    covariance = W.T @ np.diag(A**2 + S1**2) @ W + S**2 * np.eye(4)
    return scipy.stats.multivariate_normal(B @ W + C, covariance).logpdf(IMAGES.reshape(6, 4))


def _affine(kernel, bias, log_var):
    width = len(bias)
    return {
        "mean": {"kernel": kernel, "bias": bias},
        "log_var": {"kernel": np.zeros_like(kernel), "bias": np.broadcast_to(log_var, (width,))},
    }


def _params(inference, shift=0.0, widen=0.0):
    """The generative model and its exact posterior; q's means shifted, its log-variances raised."""
    assert np.allclose(W @ W.T, np.diag(GRAM)), "the columns must be orthogonal for a diagonal posterior"
    tree = {
        "decoder": {"Dense_0": {"kernel": W, "bias": C}},
        "log_scale": np.log(S),
        "to_p_0": _affine(np.diag(A), B, 2 * np.log(S1)),
    }
    if inference == "bottom_up":
        prior = A**2 + S1**2  # of z_1
        precision = GRAM / S**2 + 1 / prior
        kernel, bias = W.T / S**2 / precision, (B / prior - W @ C / S**2) / precision
        tree["to_q_0"] = _affine(kernel, bias + shift, widen - np.log(precision))
        precision = 1 + A**2 / S1**2
        kernel = np.diag(A / S1**2 / precision)
        tree["to_q_1"] = _affine(kernel, -B @ kernel - shift, widen - np.log(precision))
    else:
        noise = S1**2 + S**2 / GRAM  # of what x says about z_1, given z_2
        precision = 1 + A**2 / noise
        kernel = (W / GRAM[:, None]).T * (A / noise / precision)
        bias = -C @ kernel - B * A / noise / precision
        tree["to_q_1"] = _affine(kernel, bias - shift, widen - np.log(precision))
        precision = GRAM / S**2 + 1 / S1**2
        kernel = W.T / S**2 / precision
        log_var = widen - np.log(precision) - 2 * np.log(S1)
        tree["to_q_0"] = _affine(kernel, -C @ kernel - B * GRAM / S**2 / precision + shift, log_var)
        tree["to_q_down_0"] = _affine(-np.diag(A * GRAM / S**2 / precision), np.zeros(2), 0.0)
    return {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)}


def _gap(inference, shift, widen):
    """KL(q || posterior) in closed form: both layers are off by a constant, so it doesn't depend on z."""
    precisions = (
        (GRAM / S**2 + 1 / (A**2 + S1**2), 1 + A**2 / S1**2)
        if inference == "bottom_up"
        else (GRAM / S**2 + 1 / S1**2, 1 + A**2 / (S1**2 + S**2 / GRAM))
    )
    return sum(0.5 * (shift**2 * p + np.exp(widen) - 1 - widen).sum() for p in precisions)


def _bind(factory, model, likelihood):
    encode, draw, decode = (functools.partial(model.apply, method=n) for n in ("encode", "draw", "decode"))
    return functools.partial(factory, encode, decode, likelihood, draw=draw)


def _build(factory, inference):
    return _bind(factory, _model(inference), LearnedGaussianLikelihood())


@functools.cache
def _estimate(inference, samples, shift=0.0, widen=0.0, replicates=1):
    """Bounds `[replicates, 6]`, each replicate with noise of its own."""
    bound = _build(evaluate_bound, inference)
    images = jnp.tile(jnp.asarray(IMAGES, jnp.float32), (replicates, 1, 1, 1))
    compiled = jax.jit(functools.partial(bound, samples=samples, chunk=20, key=jax.random.key(samples)))
    found = compiled(_params(inference, shift, widen), images)
    return jax.tree.map(lambda x: np.asarray(x, np.float64).reshape(replicates, 6), found)


@pytest.mark.slow
@pytest.mark.parametrize("inference", INFERENCE)
def test_exact_conditionals_give_the_evidence_with_every_sample(inference, key):
    shapes = jax.eval_shape(_model(inference).init, key, jnp.asarray(IMAGES))
    assert jax.tree.map(jnp.shape, _params(inference)) == jax.tree.map(lambda s: s.shape, shapes)
    for samples in (1, 50):
        estimate = _estimate(inference, samples)
        np.testing.assert_allclose(estimate.bound_nats[0], _evidence(), rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(estimate.effective_samples, samples, rtol=1e-4)
    batch = {"image": jnp.asarray(IMAGES, jnp.float32)}
    objective = _build(iwae, inference)(samples=5)
    loss, aux = jax.jit(objective)({"vae": _params(inference)}, {}, batch, key=key, step=0)
    np.testing.assert_allclose(loss, -_evidence().mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["effective_samples"], 5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize(("shift", "widen"), [(0.0, 0.0), (0.2, -0.5)])
def test_the_elbos_gap_is_the_divergence_in_closed_form(inference, shift, widen):
    estimate = _estimate(inference, 20, shift, widen, replicates=2000)
    means = estimate.elbo_nats.mean(axis=1)  # one per replicate
    error = means.std() / np.sqrt(len(means))
    assert error < 0.01
    assert abs(means.mean() - (_evidence().mean() - _gap(inference, shift, widen))) < 4 * error + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("inference", INFERENCE)
def test_the_bound_rises_with_the_samples_from_the_elbo_to_the_evidence(inference):
    evidence, gap = _evidence().mean(), _gap(inference, 0.2, 0.5)
    bounds = [
        _estimate(inference, samples, 0.2, 0.5, replicates=400).bound_nats.mean(axis=1)
        for samples in (1, 10, 100, 1000)
    ]
    errors = [bound.std() / np.sqrt(len(bound)) for bound in bounds]
    means = [bound.mean() for bound in bounds]
    assert abs(means[0] - (evidence - gap)) < 4 * errors[0]
    assert means == sorted(means)
    assert means[2] - means[1] > 4 * errors[1]  # by more than noise
    assert -0.01 < means[3] - evidence < 4 * errors[3] + 1e-5


@pytest.mark.slow
def test_the_elbo_objective_is_the_evaluated_one(key):
    params = {"vae": _params("top_down", 0.2, 0.3)}
    batch = {"image": jnp.asarray(IMAGES, jnp.float32)}
    build = _build(elbo, "top_down")
    loss, aux = jax.jit(build(samples=4000))(params, {}, batch, key=key, step=0)
    expected = _evidence().mean() - _gap("top_down", 0.2, 0.3)
    np.testing.assert_allclose(-loss, expected, atol=0.02)
    np.testing.assert_allclose(aux.metrics["elbo_nats"], -loss, rtol=1e-6)
    heavy, _ = jax.jit(build(samples=4000, beta=3.0))(params, {}, batch, key=key, step=0)
    np.testing.assert_allclose(heavy - loss, 2 * aux.metrics["kl_nats"], rtol=1e-4)
    floored, _ = jax.jit(build(samples=10, free_bits_nats=50.0, free_bits_groups=2))(
        params, {}, batch, key=key, step=0
    )
    reconstruction = jax.jit(build(samples=10))(params, {}, batch, key=key, step=0)[1].metrics
    np.testing.assert_allclose(floored, reconstruction["reconstruction_nats"] + 100, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inference", INFERENCE)
def test_chunks_positions_and_splits_change_nothing(inference, key):
    params, images = _params(inference, 0.2, 0.3), jnp.asarray(IMAGES, jnp.float32)
    bound = functools.partial(_build(evaluate_bound, inference), key=key)
    bound = jax.jit(bound, static_argnames=("samples", "chunk"))
    whole = bound(params, images, samples=13, chunk=13)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for chunk in (1, 5):
        jax.tree.map(close, bound(params, images, samples=13, chunk=chunk), whole)
    part = bound(params, images[2:3], samples=13, chunk=5, position=jnp.array([2]))
    jax.tree.map(lambda p, w: close(p, w[2:3]), part, whole)
    objective = jax.jit(_build(iwae, inference)(samples=3))
    batch = {"image": images, "position": jnp.arange(6)}
    loss, _ = objective({"vae": params}, {}, batch, key=key, step=0)
    halves = [jax.tree.map(lambda x, i=i: x[i : i + 3], batch) for i in (0, 3)]
    losses = [objective({"vae": params}, {}, half, key=key, step=0)[0] for half in halves]
    np.testing.assert_allclose(np.mean(losses), loss, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_memory_does_not_grow_with_the_samples(layers, key):
    """Bytes of temporaries of the compiled evaluation, 250 digits at a time, as the experiment runs it."""
    model = HierarchicalVAE()
    images = jax.ShapeDtypeStruct((250, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(model.init, key, images)
    bound = _bind(evaluate_bound, model, BernoulliLikelihood())
    if layers == 1:
        params = {"in": jax.ShapeDtypeStruct((784, 20), jnp.float32)}
        bound = functools.partial(
            evaluate_bound,
            lambda p, x: 2 * [x.reshape(-1, 784) @ p["in"]],
            lambda p, z: (z @ p["in"].T).reshape(-1, 28, 28, 1),
            BernoulliLikelihood(),
        )

    def temporaries(samples, chunk):
        compiled = jax.jit(functools.partial(bound, samples=samples, chunk=chunk, key=key))
        return compiled.lower(params, images).compile().memory_analysis().temp_size_in_bytes

    few, many = temporaries(50, 10), temporaries(5000, 10)
    assert many < few + 100_000
    if layers == 2:
        assert temporaries(50, 50) > 2 * few  # so the figure does measure the samples at a time
    assert many < 250e6
