"""Objectives over weights, against Bayesian linear regression and networks whose expectations are known."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from vaesr import losses, training
from vaesr.distributions import (
    GaussianPrior,
    ScaleMixturePrior,
    flatten_paths,
    mean_field,
    mean_field_kl,
    mean_field_scales,
    sample_mean_field,
)
from vaesr.layers import bayesian_apply
from vaesr.objectives import (
    bayesian,
    bayesian_exact,
    blundell_weights,
    classification_nll,
    predictive,
    predictive_log_prob,
    predictive_moments,
    regression_nll,
)

# --- Bayesian linear regression: y ~ N(Xw, noise²), w ~ N(0, prior²) --------------------------------------

NOISE, PRIOR, EXAMPLES, FEATURES = 0.5, 1.5, 30, 3
LINEAR = nn.Dense(1, use_bias=False)
NLL = functools.partial(regression_nll, log_scale=math.log(NOISE))


def _regression(orthogonal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(EXAMPLES, FEATURES)) @ np.array([[1.0, 0.8, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    if orthogonal:
        x = np.linalg.qr(x)[0] * 4.0
    x = x.astype(np.float32).astype(np.float64)
    y = x @ np.array([1.0, -0.5, 0.3]) + NOISE * draw.normal(size=EXAMPLES)
    return x, y.astype(np.float32).astype(np.float64)


def _exact_posterior(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and precision: S^-1 = S0^-1 + X'X / noise²."""
    precision = np.eye(FEATURES) / PRIOR**2 + x.T @ x / NOISE**2
    return np.linalg.solve(precision, x.T @ y) / NOISE**2, precision


def _log_evidence(x: np.ndarray, y: np.ndarray) -> float:
    covariance = NOISE**2 * np.eye(EXAMPLES) + PRIOR**2 * x @ x.T
    return scipy.stats.multivariate_normal.logpdf(y, np.zeros(EXAMPLES), covariance)


def _batch(x: np.ndarray, y: np.ndarray) -> dict:
    return {"image": jnp.asarray(x, jnp.float32), "target": jnp.asarray(y, jnp.float32)[:, None]}


def _posterior(mean: np.ndarray, variance: np.ndarray) -> dict:
    kernel = jnp.asarray(mean, jnp.float32)[:, None]
    scale = np.sqrt(np.asarray(variance))[:, None]
    return mean_field({"kernel": kernel}, scale=lambda path, leaf: scale)


def _expected_nll(posterior, batch):
    """E[-log N(y; xw, noise²)]: the mean's squared error and the variance of xw."""
    mean, scale = posterior["mean"]["kernel"], mean_field_scales(posterior)["kernel"]
    error = jnp.square(batch["target"] - batch["image"] @ mean) + jnp.square(batch["image"]) @ jnp.square(
        scale
    )
    return (error / (2 * NOISE**2) + 0.5 * math.log(2 * math.pi * NOISE**2)).sum(axis=1)


EXACT = bayesian_exact(_expected_nll, dataset_size=EXAMPLES, prior=GaussianPrior(PRIOR))
SAMPLED = functools.partial(
    bayesian, bayesian_apply(LINEAR), NLL, dataset_size=EXAMPLES, prior=GaussianPrior(PRIOR)
)


def _elbo(posterior, batch) -> float:
    """The full ELBO in nats."""
    loss, _ = EXACT({"bnn": posterior}, {}, batch, key=jax.random.key(0), step=0)
    return -float(loss) * EXAMPLES


@functools.cache
def _trained(objective, steps: int, orthogonal: bool = False) -> dict:
    batch = _batch(*_regression(orthogonal))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    players = {"bnn": training.Player(objective, optimizer)}
    init = lambda key: ({"bnn": mean_field({"kernel": jnp.zeros((FEATURES, 1))}, scale=0.5)}, {})
    state = training.create_state(init, players, key=jax.random.key(0))
    step = training.make_train_step(players)
    scan = jax.jit(lambda s: jax.lax.scan(lambda c, _: (step(c, batch)[0], None), s, length=steps)[0])
    return scan(state).params["bnn"]


@pytest.mark.slow
@pytest.mark.parametrize("orthogonal", [False, True])
def test_training_reaches_the_mean_field_optimum(orthogonal):
    x, y = _regression(orthogonal)
    mean, precision = _exact_posterior(x, y)
    posterior = _trained(EXACT, 1500, orthogonal)
    np.testing.assert_allclose(posterior["mean"]["kernel"][:, 0], mean, atol=1e-3)
    variance = np.square(mean_field_scales(posterior)["kernel"][:, 0])
    np.testing.assert_allclose(variance, 1 / np.diag(precision), rtol=2e-3)
    marginal = np.diag(np.linalg.inv(precision))
    gap = _log_evidence(x, y) - _elbo(posterior, _batch(x, y))
    if orthogonal:  # the exact posterior is a product: everything agrees
        np.testing.assert_allclose(variance, marginal, rtol=2e-3)
        assert abs(gap) < 2e-3
    else:  # narrower than the exact marginals
        assert (variance < 0.9 * marginal).all()
        assert (variance / marginal).min() < 0.4
        assert gap > 0.1


@pytest.mark.slow
def test_training_with_sampled_weights_reaches_it_as_well():
    """Local reparameterisation, 32 draws, 6000 steps of a decaying rate."""
    mean, precision = _exact_posterior(*_regression())
    posterior = _trained(SAMPLED(samples=32), 6000)
    np.testing.assert_allclose(posterior["mean"]["kernel"][:, 0], mean, atol=1e-3)
    variance = np.square(mean_field_scales(posterior)["kernel"][:, 0])
    np.testing.assert_allclose(variance, 1 / np.diag(precision), rtol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_to_the_evidence_is_the_divergence_from_the_exact_posterior(seed):
    x, y = _regression()
    mean, precision = _exact_posterior(x, y)
    draw = np.random.default_rng(seed)
    m = (mean + 0.1 * draw.normal(size=FEATURES)).astype(np.float32).astype(np.float64)
    v = np.exp(draw.uniform(-6, -2, FEATURES))
    gap = _log_evidence(x, y) - _elbo(_posterior(m, v), _batch(x, y))
    sign, log_determinant = np.linalg.slogdet(precision)
    divergence = 0.5 * (
        (np.diag(precision) * v).sum() + (m - mean) @ precision @ (m - mean) - FEATURES
        - log_determinant - np.log(v).sum()
    )  # fmt: skip
    assert sign == 1 and gap > 0
    np.testing.assert_allclose(gap, divergence, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("how", ["local", "flipout", "weights"])
@pytest.mark.parametrize("kl_form", ["closed", "sampled"])
def test_the_sampled_loss_has_the_exact_mean(how, kl_form):
    batch = _batch(*_regression())
    posterior = _posterior(np.array([0.9, -0.4, 0.2]), np.array([0.05, 0.1, 0.02]))
    objective = bayesian(
        bayesian_apply(LINEAR, how=how),
        NLL,
        dataset_size=EXAMPLES,
        prior=GaussianPrior(PRIOR),
        kl_form=kl_form,
    )
    run = jax.jit(jax.vmap(lambda key: objective({"bnn": posterior}, {}, batch, key=key, step=0)[0]))
    values = np.asarray(run(jax.random.split(jax.random.key(1), 4000)), np.float64)
    exact, _ = EXACT({"bnn": posterior}, {}, batch, key=None, step=0)
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(4000)


def _minibatches(batch: dict, sizes: list[int]) -> list[dict]:
    bounds = np.cumsum([0, *sizes])
    whole = {**batch, "position": jnp.arange(EXAMPLES)}
    return [{k: v[a:b] for k, v in whole.items()} for a, b in itertools.pairwise(bounds)]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[10, 10, 10], [8, 8, 8, 6]])
def test_minibatches_of_an_epoch_average_to_the_full_elbo(key, sizes):
    """Weighted by size where the last one is smaller; the noise belongs to the examples, so it is exact."""
    batch = _batch(*_regression())
    params = {"bnn": _posterior(np.array([0.9, -0.4, 0.2]), np.array([0.05, 0.1, 0.02]))}
    objective = jax.jit(SAMPLED(samples=2))
    full, aux = objective(params, {}, batch, key=key, step=0)
    parts = [objective(params, {}, part, key=key, step=0) for part in _minibatches(batch, sizes)]
    share = np.array(sizes) / EXAMPLES
    np.testing.assert_allclose(share @ [float(loss) for loss, _ in parts], full, rtol=1e-6)
    elbo = share @ [float(part.metrics["elbo_nats"]) for _, part in parts]
    np.testing.assert_allclose(elbo, aux.metrics["elbo_nats"], rtol=1e-6)


@pytest.mark.parametrize("batches", [1, 3, 10, 200])
def test_blundell_weights_count_the_kl_once_per_epoch(batches):
    weights = np.asarray(jax.jit(jax.vmap(blundell_weights(batches)))(jnp.arange(2 * batches)), np.float64)
    np.testing.assert_allclose(weights[:batches].sum() / batches, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(weights[:batches], weights[batches:])  # every epoch anew
    exact = [batches * 2 ** (batches - i) / (2**batches - 1) for i in range(1, min(batches, 20) + 1)]
    np.testing.assert_allclose(weights[: len(exact)], exact, rtol=1e-6)


def test_blundell_minibatches_average_to_the_full_elbo(key):
    batch = _batch(*_regression())
    params = {"bnn": _posterior(np.array([0.9, -0.4, 0.2]), np.array([0.05, 0.1, 0.02]))}
    full, _ = jax.jit(SAMPLED())(params, {}, batch, key=key, step=0)
    objective = jax.jit(SAMPLED(minibatch_weights=blundell_weights(3)))
    parts = enumerate(_minibatches(batch, [10, 10, 10]))
    values = [float(objective(params, {}, part, key=key, step=step)[0]) for step, part in parts]
    np.testing.assert_allclose(np.mean(values), full, rtol=1e-6)
    assert values[0] != pytest.approx(float(full), rel=1e-3)


# --- metrics, weights, priors ----------------------------------------------------------------------------


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1)))
        return nn.Dense(4)(x)


def _classes(batch: int = 16) -> tuple[dict, dict]:
    draw = np.random.default_rng(3)
    images = jnp.asarray(draw.normal(size=(batch, 2, 3)), jnp.float32)
    label = jnp.asarray(draw.integers(0, 4, batch), jnp.int32)
    shapes = jax.eval_shape(Classifier().init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32), shapes)
    return mean_field(params, scale=0.3), {"image": images, "label": label}


@pytest.mark.slow
def test_metrics_are_the_terms_of_the_bound(key):
    posterior, batch = _classes()
    forward = bayesian_apply(Classifier(), how="weights")
    prior = GaussianPrior(0.7)
    build = functools.partial(bayesian, forward, classification_nll, dataset_size=100, prior=prior, samples=3)
    loss, aux = jax.jit(build())({"bnn": posterior}, {"kept": 1}, batch, key=key, step=0)
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    member = jax.jit(
        lambda k: Classifier().apply({"params": sample_mean_field(posterior, k)}, batch["image"])
    )
    logits = [member(k) for k in keys]
    nll = np.mean([losses.categorical_nll(each, batch["label"]).mean() for each in logits])
    kl = float(mean_field_kl(posterior, prior))
    guess = np.mean([jax.nn.softmax(each) for each in logits], axis=0).argmax(axis=1)
    expected = {
        "nll_nats": nll,
        "kl_nats": kl,
        "kl_per_example_nats": kl / 100,
        "elbo_nats": -nll - kl / 100,
        "kl_weight": 1.0,
        "error_percent": 100 * (guess != np.asarray(batch["label"])).mean(),
    }
    assert aux.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(aux.metrics[name], value, rtol=1e-5, err_msg=name)
        assert aux.metrics[name].shape == () and aux.metrics[name].dtype == jnp.float32
    np.testing.assert_allclose(loss, nll + kl / 100, rtol=1e-5)
    assert aux.variables == {"kept": 1}
    # The weight of the KL changes the loss, and no other metric.
    warm = build(kl_weight=optax.linear_schedule(0.0, 1.0, 4))
    loss, aux = jax.jit(warm)({"bnn": posterior}, {}, batch, key=key, step=jnp.int32(1))
    np.testing.assert_allclose(loss, nll + 0.25 * kl / 100, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["kl_weight"], 0.25)
    np.testing.assert_allclose(aux.metrics["elbo_nats"], -nll - kl / 100, rtol=1e-5)


@pytest.mark.slow
def test_sampled_kl_uses_the_weights_of_the_forward_pass(key):
    """Blundell's form, log q(w) - log p(w) - log p(D | w), at one and the same w."""
    posterior, batch = _classes()
    prior = ScaleMixturePrior(0.5, 1.0, 0.1)
    objective = bayesian(
        bayesian_apply(Classifier(), how="weights"),
        classification_nll,
        dataset_size=16,
        prior=prior,
        kl_form="sampled",
    )
    loss, _ = jax.jit(objective)({"bnn": posterior}, {}, batch, key=key, step=0)
    weights = sample_mean_field(posterior, jax.random.fold_in(key, 0))
    scales = flatten_paths(mean_field_scales(posterior))
    q = GaussianPrior(lambda path, leaf: scales[path], mean=posterior["mean"])
    logits = Classifier().apply({"params": weights}, batch["image"])
    nll = losses.categorical_nll(logits, batch["label"]).sum()
    np.testing.assert_allclose(loss * 16, q.log_prob(weights) - prior.log_prob(weights) + nll, rtol=1e-4)


@pytest.mark.slow
def test_a_prior_may_follow_the_posterior(key):
    posterior, batch = _classes()
    build = functools.partial(bayesian, bayesian_apply(Classifier()), classification_nll, dataset_size=16)
    tied = build(prior=lambda q: GaussianPrior(0.1, mean=q["mean"]))
    _, aux = jax.jit(tied)({"bnn": posterior}, {}, batch, key=key, step=0)
    count = sum(leaf.size for leaf in jax.tree.leaves(posterior["rho"]))
    np.testing.assert_allclose(aux.metrics["kl_nats"], count * (9 - 1 - 2 * math.log(3)) / 2, rtol=1e-4)
    kl = lambda q: mean_field_kl(q, GaussianPrior(0.1, mean=q["mean"]))
    gradient = jax.jit(jax.grad(kl))(posterior)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient["mean"]))


@pytest.mark.slow
def test_accumulation_gives_the_same_gradient():
    posterior, batch = _classes()
    forward = bayesian_apply(Classifier())
    objective = bayesian(forward, classification_nll, dataset_size=16, prior=GaussianPrior())
    players = {"bnn": training.Player(objective, optax.sgd(0.1))}
    state = training.create_state(lambda key: ({"bnn": posterior}, {}), players, key=jax.random.key(0))
    updated = [
        jax.jit(training.make_train_step(players, accumulate=parts))(state, batch)[0].params
        for parts in (1, 2)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *updated)


@pytest.mark.slow
def test_half_precision_inputs_give_a_float32_loss(key):
    posterior, batch = _classes()
    objective = bayesian(
        bayesian_apply(Classifier()), classification_nll, dataset_size=16, prior=GaussianPrior()
    )
    half = {**batch, "image": batch["image"].astype(jnp.bfloat16)}
    losses_ = [jax.jit(objective)({"bnn": posterior}, {}, b, key=key, step=0)[0] for b in (half, batch)]
    assert losses_[0].dtype == jnp.float32
    np.testing.assert_allclose(*losses_, rtol=2e-2)


# --- Hinton and van Camp's exact objective ---------------------------------------------------------------


class Hidden(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(10)(x))
        return nn.Dense(1)(x)


@pytest.mark.slow
def test_the_exact_objective_trains_a_network():
    """A sine: the bound rises without noise, and sampled weights give the same bound in the end."""
    x = jnp.linspace(-2.0, 2.0, 40)[:, None]
    batch = {"image": x, "target": jnp.sin(2.0 * x)}
    scale = 0.1

    def expected(q, batch):
        error = losses.expected_squared_error(q, batch["image"], batch["target"])
        return error / (2 * scale**2) + math.log(scale) + 0.5 * math.log(2 * math.pi)

    prior = GaussianPrior(1.0)
    exact = bayesian_exact(expected, dataset_size=40, prior=prior)
    players = {"bnn": training.Player(exact, optax.adam(1e-2))}
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(Hidden().init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32), shapes)
    state = training.create_state(
        lambda key: ({"bnn": mean_field(params)}, {}), players, key=jax.random.key(0)
    )
    step = training.make_train_step(players)

    def body(carry, _):
        carry, metrics = step(carry, batch)
        return carry, metrics["elbo_nats"]

    state, elbos = jax.jit(lambda s: jax.lax.scan(body, s, length=2000))(state)
    elbos = np.asarray(elbos).reshape(-1, 100).mean(axis=1)
    assert (np.diff(elbos) > -0.02).all()
    nll = functools.partial(regression_nll, log_scale=math.log(scale))
    sampled = bayesian(bayesian_apply(Hidden()), nll, dataset_size=40, prior=prior, samples=2000)
    loss, _ = jax.jit(sampled)(state.params, {}, batch, key=jax.random.key(1), step=0)
    np.testing.assert_allclose(-loss, elbos[-1], rtol=0.02)


# --- predictions -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_predictive_is_the_mean_probability(key):
    posterior, batch = _classes()
    forward = bayesian_apply(Classifier())
    predict = jax.jit(functools.partial(predictive, forward, samples=7), static_argnames="chunk")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(7))
    members = forward(posterior, batch["image"], keys=keys, position=jnp.arange(16))
    expected = np.log(np.asarray(jax.nn.softmax(members, axis=-1), np.float64).mean(axis=0))
    for chunk in (3, 100):
        found = predict(posterior, batch["image"], key=key, chunk=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, rtol=1e-5)
    part = predict(posterior, batch["image"][8:], key=key, chunk=3, position=jnp.arange(8, 16))
    np.testing.assert_allclose(part, expected[8:], rtol=1e-4, atol=1e-5)
    log_prob = predictive_log_prob(forward, classification_nll, posterior, batch, key=key, samples=7, chunk=3)
    np.testing.assert_allclose(log_prob, expected[np.arange(16), batch["label"]], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_memory_grows_with_the_chunk_and_not_with_the_samples(key):
    posterior, batch = _classes(256)
    forward = bayesian_apply(Classifier())

    def bytes_of(samples, chunk):
        run = functools.partial(predictive, forward, samples=samples, chunk=chunk)
        compiled = jax.jit(run).lower(posterior, batch["image"], key=key).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(400, 4) < 1.1 * bytes_of(40, 4) < 0.5 * bytes_of(40, 40)


def test_predictive_moments_of_linear_regression_are_exact():
    x, _ = _regression()
    mean, variance = np.array([0.9, -0.4, 0.2]), np.array([0.05, 0.1, 0.02])
    posterior, inputs = _posterior(mean, variance), jnp.asarray(x, jnp.float32)
    forward = bayesian_apply(LINEAR, how="weights")
    moments = jax.jit(functools.partial(predictive_moments, forward, samples=20_000, chunk=300))(
        posterior, inputs, key=jax.random.key(2), log_scale=math.log(NOISE)
    )
    epistemic = (x**2) @ variance
    np.testing.assert_allclose(moments.mean[:, 0], x @ mean, atol=5 * np.sqrt(epistemic.max() / 20_000))
    np.testing.assert_allclose(moments.epistemic[:, 0], epistemic, rtol=5 * np.sqrt(2 / 20_000))
    np.testing.assert_allclose(moments.aleatoric, NOISE**2, rtol=1e-4)


@pytest.mark.slow
def test_predictive_moments_do_not_depend_on_the_chunk_and_do_not_cancel(key):
    """A mean of 1000 and a standard deviation of 0.01."""

    def forward(posterior, inputs, *, keys, position):
        noise = jax.vmap(lambda k: jax.random.normal(k, inputs.shape))(keys)
        return 1000.0 + 0.01 * noise, jnp.full(keys.shape, -1.0)

    run = functools.partial(predictive_moments, forward, None, jnp.zeros((3, 2)), key=key, samples=2000)
    moments = [run(chunk=chunk) for chunk in (2000, 7)]
    for found in moments:
        np.testing.assert_allclose(found.epistemic, 1e-4, rtol=0.2)
        np.testing.assert_allclose(found.mean, 1000.0, rtol=1e-6)
        np.testing.assert_allclose(found.aleatoric, np.exp(-2.0), rtol=1e-4)
    np.testing.assert_allclose(moments[0].epistemic, moments[1].epistemic, rtol=0.02)


@pytest.mark.slow
def test_predictive_log_prob_of_a_regression_is_a_mixture(key):
    x, y = _regression()
    batch = _batch(x, y)
    posterior = _posterior(np.array([0.9, -0.4, 0.2]), np.array([0.05, 0.1, 0.02]))
    forward = bayesian_apply(LINEAR, how="weights")
    found = predictive_log_prob(forward, NLL, posterior, batch, key=key, samples=5, chunk=2)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5))
    means = np.asarray(forward(posterior, batch["image"], keys=keys, position=jnp.arange(EXAMPLES)))[..., 0]
    expected = np.log(scipy.stats.norm.pdf(y, means, NOISE).mean(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_networks_may_learn_the_noise(key):
    class Heteroscedastic(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(x), nn.Dense(1)(x)

    batch = _batch(*_regression())
    params = Heteroscedastic().init(key, batch["image"])["params"]
    posterior = mean_field(params, scale=1e-8)
    forward = bayesian_apply(Heteroscedastic())
    objective = bayesian(forward, regression_nll, dataset_size=EXAMPLES, prior=GaussianPrior())
    _, aux = jax.jit(objective)({"bnn": posterior}, {}, batch, key=key, step=0)
    mean, log_scale = Heteroscedastic().apply({"params": params}, batch["image"])
    expected = losses.gaussian_nll(mean, batch["target"], log_scale=log_scale).mean()
    np.testing.assert_allclose(aux.metrics["nll_nats"], expected, rtol=1e-5)
    moments = predictive_moments(forward, posterior, batch["image"], key=key, samples=2)
    np.testing.assert_allclose(moments.aleatoric, np.exp(2 * log_scale), rtol=1e-4)


@pytest.mark.slow
def test_knobs_and_batches_are_checked(key):
    posterior, batch = _classes()
    forward = bayesian_apply(Classifier())
    build = functools.partial(bayesian, forward, classification_nll, prior=GaussianPrior(), dataset_size=16)
    for knobs, words in [
        ({"samples": 0}, "samples must be at least 1"),
        ({"dataset_size": 0}, "dataset_size must be at least 1"),
        ({"kl_form": "exact"}, "kl_form"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"prior": ScaleMixturePrior()}, "no closed form.*sampled"),
    ]:
        with pytest.raises(ValueError, match=words):
            build(**knobs)
    run = lambda objective, batch=batch: objective({"bnn": posterior}, {}, batch, key=key, step=0)
    with pytest.raises(ValueError, match=r"no player 'bayes'.*bnn"):
        run(build(player="bayes"))
    with pytest.raises(ValueError, match=r"'x'.*image"):
        run(build(inputs="x"))
    with pytest.raises(ValueError, match="'label'"):
        run(build(), {"image": batch["image"]})
    with pytest.raises(ValueError, match=r"one value per example \(16,\), got \(\)"):
        run(bayesian(forward, lambda o, b: o.sum(), prior=GaussianPrior(), dataset_size=16))
    with pytest.raises(ValueError, match=r"one value per example \[B\]"):
        run(bayesian_exact(lambda q, b: jnp.zeros(()), prior=GaussianPrior(), dataset_size=16))
    with pytest.raises(ValueError, match="batches must be at least 1"):
        blundell_weights(0)
    with pytest.raises(ValueError, match="samples and chunk"):
        predictive(forward, posterior, batch["image"], key=key, samples=0)
    with pytest.raises(ValueError, match=r"logits \[S, B, K\]"):
        predictive(lambda *a, **k: jnp.zeros((1, 16)), posterior, batch["image"], key=key, samples=1)
