"""ELBO, IWAE and the evaluated bound, against models whose evidence is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from vaesr import losses
from vaesr.distributions import Normal, example_normal, kl_standard_normal
from vaesr.models.vae import VAE
from vaesr.objectives import (
    BernoulliLikelihood,
    Draws,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    binarise,
    elbo,
    evaluate_bound,
    iwae,
)

# --- the IWAE toy: z ~ N(0, 1), x | z ~ N(z, 1), q = prior ---------------------------------------------

EVIDENCE = -2.26551  # log N(2; 0, 2)
TOY_BOUNDS = {10: -2.3363, 100: -2.2714, 1000: -2.2659}


def _prior_encode(params, x):
    return jnp.zeros_like(x), jnp.zeros_like(x)


def _exact_encode(params, x):
    return x / 2, jnp.full_like(x, np.log(0.5))


def _identity_decode(params, z):
    return z


@functools.cache
def _toy_bound(samples: int, replicates: int):
    return jax.jit(
        lambda key: evaluate_bound(
            _prior_encode,
            _identity_decode,
            GaussianLikelihood(1.0),
            None,
            jnp.full((replicates, 1), 2.0),
            key=key,
            samples=samples,
            chunk=100,
        )
    )(jax.random.key(samples))


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "expected"), TOY_BOUNDS.items())
def test_toy_bounds_equal_the_reference(samples, expected):
    bounds = np.asarray(_toy_bound(samples, 4000).bound_nats, np.float64)
    error = bounds.std() / np.sqrt(len(bounds))
    assert abs(bounds.mean() - expected) < 4 * error + 1e-4  # the reference has four decimals
    assert error < 0.01


def test_toy_bound_with_one_sample_is_the_elbo_exactly():
    """E_q[log p(x | z)] is that of a quadratic: two sigma points give it exactly; the KL is 0."""
    x = jnp.full((2, 1), 2.0)
    reconstruction = GaussianLikelihood().nll(jnp.array([[-1.0], [1.0]]), x).mean(keepdims=True)
    kl = losses.gaussian_kl_standard(*_prior_encode(None, x[:1]))
    np.testing.assert_allclose(-losses.negative_elbo(reconstruction, kl), -3.41894, atol=1e-5)
    estimate = _toy_bound(10, 4000)
    values = np.asarray(estimate.elbo_nats, np.float64)
    assert abs(values.mean() + 3.41894) < 4 * values.std() / np.sqrt(len(values))


def test_toy_bound_rises_with_the_samples_towards_the_evidence():
    means = [-3.41894] + [float(_toy_bound(k, 4000).bound_nats.mean()) for k in TOY_BOUNDS]
    assert means == sorted(means) and means[-1] < EVIDENCE + 0.002


@pytest.mark.slow
def test_an_exact_posterior_has_no_variance(key):
    x = jnp.linspace(-2.0, 2.0, 8)[:, None]
    evidence = -0.25 * x[:, 0] ** 2 - 0.5 * np.log(4 * np.pi)
    for samples in (1, 7):
        bound = functools.partial(evaluate_bound, _exact_encode, _identity_decode, GaussianLikelihood())
        estimate = jax.jit(functools.partial(bound, samples=samples))(None, x, key=key)
        np.testing.assert_allclose(estimate.bound_nats, evidence, atol=1e-5)
        np.testing.assert_allclose(estimate.effective_samples, samples, rtol=1e-4)
    objective = jax.jit(iwae(_exact_encode, _identity_decode, GaussianLikelihood(), samples=3))
    loss, _ = objective({"vae": None}, {}, {"image": x}, key=key, step=0)
    np.testing.assert_allclose(loss, -evidence.mean(), atol=1e-5)


@pytest.mark.slow
def test_chunks_do_not_change_the_bound(key):
    x = jnp.array([[2.0], [0.5], [-1.0]])
    bound = functools.partial(evaluate_bound, _prior_encode, _identity_decode, GaussianLikelihood(), None)
    bound = functools.partial(bound, key=key, samples=13)
    whole = bound(x, chunk=13)
    for chunk in (1, 50):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), bound(x, chunk=chunk), whole)
    jitted = jax.jit(functools.partial(bound, chunk=4))(x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), jitted, whole)
    part = bound(x[1:], chunk=4, position=jnp.array([1, 2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1:], rtol=1e-5), part, whole)


# --- probabilistic PCA: the linear VAE's maximum likelihood is known ------------------------------------

PIXELS, LATENT, EXAMPLES = 8, 3, 400
LINEAR = VAE(
    "linear",
    latent=LATENT,
    hidden=(),
    image_shape=(2, 4, 1),
    likelihood="gaussian_learned",
    precision="highest",
)
ENCODE = functools.partial(LINEAR.apply, method="encode")
DECODE = functools.partial(LINEAR.apply, method="decode")


@functools.cache
def _pca():
    """Data, and its exact maximum log-likelihood per example with the parameters that reach it."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(LATENT, PIXELS)) * np.array([[2.0], [1.2], [0.7]])
    data = generator.normal(size=(EXAMPLES, LATENT)) @ mixing
    data = data + 0.4 * generator.normal(size=data.shape) + generator.normal(size=PIXELS)
    mean = data.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(data.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[LATENT:].mean()
    weights = vectors[:, :LATENT] * np.sqrt(values[:LATENT] - noise)
    evidence = -0.5 * (
        PIXELS * np.log(2 * np.pi)
        + np.log(values[:LATENT]).sum()
        + (PIXELS - LATENT) * np.log(noise)
        + PIXELS
    )
    images = jnp.asarray(data.reshape(EXAMPLES, 2, 4, 1), jnp.float32)
    return images, evidence, weights, mean, noise


def _linear_params(weights: np.ndarray, mean: np.ndarray, noise: float):
    """Put W, μ, σ² and the best diagonal posterior for them into the model's tree."""
    precision = weights.T @ weights + noise * np.eye(LATENT)  # M
    to_latent = np.linalg.solve(precision, weights.T)  # M⁻¹ Wᵀ
    tree = {
        "mean_q": {"kernel": to_latent.T, "bias": -to_latent @ mean},
        "log_var_q": np.log(noise / np.diag(precision)),
        "decoder": {"Dense_0": {"kernel": weights.T, "bias": mean}},
        "log_scale": 0.5 * np.log(noise),
    }
    return {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)}


@jax.jit
def _exact_elbo(params) -> jax.Array:
    """The ELBO without Monte Carlo: 2k sigma points give the mean of a quadratic exactly."""
    images = _pca()[0]
    mean_q, log_var_q = ENCODE(params, images)
    offsets = np.sqrt(LATENT) * np.concatenate([np.eye(LATENT), -np.eye(LATENT)])
    likelihood = LearnedGaussianLikelihood()
    reconstruction = sum(
        likelihood.nll(
            DECODE(params, mean_q + jnp.exp(log_var_q / 2) * jnp.asarray(o, jnp.float32)[None]), images
        )
        for o in offsets
    ) / len(offsets)
    kl = losses.gaussian_kl_standard(mean_q, log_var_q)
    return -losses.negative_elbo(reconstruction, kl).mean()


@pytest.mark.slow
def test_linear_vae_at_the_optimum_has_the_exact_pca_likelihood(key):
    images, evidence, weights, mean, noise = _pca()
    params = _linear_params(weights, mean, noise)
    shapes = jax.eval_shape(LINEAR.init, key, images[:1])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    np.testing.assert_allclose(_exact_elbo(params), evidence, rtol=1e-4)
    # The posterior is exact, so every single sample's weight is the evidence, whatever the noise.
    objective = jax.jit(iwae(ENCODE, DECODE, LearnedGaussianLikelihood(), samples=1))
    loss, aux = objective({"vae": params}, {}, {"image": images}, key=key, step=0)
    np.testing.assert_allclose(-loss, evidence, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["bits_per_dim"], -evidence / PIXELS / np.log(2), rtol=1e-4)
    # The ELBO objective draws its reconstruction term: equal within the Monte Carlo error.
    objective = jax.jit(elbo(ENCODE, DECODE, LearnedGaussianLikelihood(), samples=64))
    loss, _ = objective({"vae": params}, {}, {"image": images}, key=key, step=0)
    np.testing.assert_allclose(-loss, evidence, rtol=5e-3)


def test_a_rotated_pca_solution_is_worse_for_a_diagonal_posterior():
    _, evidence, weights, mean, noise = _pca()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(LATENT, LATENT)))[0]
    assert _exact_elbo(_linear_params(weights @ rotation, mean, noise)) < evidence - 0.05


@pytest.mark.slow
def test_training_a_linear_vae_reaches_the_exact_pca_likelihood(key):
    images, evidence, *_ = _pca()
    objective = elbo(ENCODE, DECODE, LearnedGaussianLikelihood())
    steps = 3000
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    params = {"vae": LINEAR.init(key, images[:1])}

    def train_step(carry, step):
        params, state = carry
        step_key = jax.random.fold_in(key, step)
        gradient, aux = jax.grad(objective, has_aux=True)(
            params, {}, {"image": images}, key=step_key, step=step
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), aux.metrics["elbo_nats"]

    train = jax.jit(lambda carry: jax.lax.scan(train_step, carry, jnp.arange(steps)))
    (params, _), _ = train((params, optimizer.init(params)))
    reached = _exact_elbo(params["vae"])
    assert reached < evidence + 1e-3
    np.testing.assert_allclose(reached, evidence, rtol=5e-3)


# --- the objectives' contract ---------------------------------------------------------------------------


def _encode(params, x):
    features = x.reshape(x.shape[0], -1) @ params["in"]
    return features[:, :4], features[:, 4:]


def _decode(params, z):
    return (z @ params["out"]).reshape(-1, 2, 3, 1)


@pytest.fixture
def setup():
    generator = np.random.default_rng(0)
    params = {
        "vae": {
            "in": jnp.asarray(0.3 * generator.normal(size=(6, 8)), jnp.float32),
            "out": jnp.asarray(generator.normal(size=(4, 6)), jnp.float32),
        }
    }
    images = jnp.asarray(generator.random((6, 2, 3, 1)), jnp.float32)
    return params, {"image": images, "position": jnp.arange(6)}


FACTORIES = {
    "elbo_3": functools.partial(elbo, samples=3),
    "elbo_binary": functools.partial(elbo, binarisation="dynamic"),
    "elbo_free": functools.partial(elbo, free_bits_nats=0.1, free_bits_groups=2),
    "iwae_binary": functools.partial(iwae, samples=3, binarisation="dynamic"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elbo_binary", "iwae_binary"])
def test_a_split_batch_draws_the_same_noise(name, setup, key):
    params, batch = setup
    factory = FACTORIES[name]
    objective = jax.jit(factory(_encode, _decode, BernoulliLikelihood()))
    loss, aux = objective(params, {}, batch, key=key, step=0)
    halves = [jax.tree.map(lambda x: x[i : i + 3], batch) for i in (0, 3)]  # noqa: B023
    parts = [objective(params, {}, half, key=key, step=0) for half in halves]
    np.testing.assert_allclose(np.mean([part[0] for part in parts]), loss, rtol=1e-5)
    for name in ("elbo_nats", "kl_nats", "reconstruction_nats", "bits_per_dim"):
        np.testing.assert_allclose(
            np.mean([part[1].metrics[name] for part in parts]), aux.metrics[name], rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elbo_3", "elbo_free", "iwae_binary"])
def test_objective_is_a_float32_scalar_with_the_numeric_gradient(name, setup, key):
    params, batch = setup
    objective = jax.jit(FACTORIES[name](_encode, _decode, BernoulliLikelihood()))
    variables = {"kept": jnp.ones(2)}
    loss, aux = objective(params, variables, batch, key=key, step=jnp.int32(3))
    np.testing.assert_array_equal(aux.variables["kept"], variables["kept"])
    for value in (loss, *aux.metrics.values()):
        assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value)
    check_grads(
        lambda p: objective(p, variables, batch, key=key, step=jnp.int32(3))[0],
        (params,),
        order=1,
        modes=["rev"],
        atol=5e-2,
        rtol=5e-2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("factory", [elbo, iwae])
def test_compiling_changes_nothing(factory, setup, key):
    params, batch = setup
    objective = factory(_encode, _decode, BernoulliLikelihood(), samples=1)
    plain, aux = objective(params, None, batch, key=key, step=0)
    compiled, aux_compiled = jax.jit(objective)(params, None, batch, key=key, step=0)
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)
    for name, value in aux.metrics.items():
        np.testing.assert_allclose(aux_compiled.metrics[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_images_and_a_batch_of_one(dtype, setup, key):
    params, batch = setup
    one = {"image": batch["image"][:1].astype(dtype)}  # and no position: arange is taken
    for factory in (elbo, iwae):
        objective = jax.jit(factory(_encode, _decode, GaussianLikelihood(0.3)))
        loss, _ = objective(params, {}, one, key=key, step=0)
        assert loss.dtype == jnp.float32 and np.isfinite(loss)


@pytest.mark.slow
def test_beta_weighs_the_loss_and_leaves_the_metrics(setup, key):
    params, batch = setup

    def value(objective, step=0):
        return jax.jit(objective)(params, {}, batch, key=key, step=step)

    build = functools.partial(elbo, _encode, _decode, BernoulliLikelihood())
    loss, aux = value(build())
    np.testing.assert_allclose(loss, -aux.metrics["elbo_nats"], rtol=1e-6)
    heavy, aux_heavy = value(build(beta=4.0))
    np.testing.assert_allclose(heavy - loss, 3 * aux.metrics["kl_nats"], rtol=1e-4)
    np.testing.assert_allclose(aux_heavy.metrics["elbo_nats"], aux.metrics["elbo_nats"])
    warm_up = build(beta=optax.linear_schedule(0.0, 1.0, 10))
    cold, aux_cold = value(warm_up, step=0)
    np.testing.assert_allclose(cold, aux.metrics["reconstruction_nats"], rtol=1e-6)
    half, aux_half = value(warm_up, step=5)
    assert aux_cold.metrics["beta"] == 0.0 and aux_half.metrics["beta"] == 0.5
    np.testing.assert_allclose(half, (cold + loss) / 2, rtol=1e-5)
    np.testing.assert_allclose(value(warm_up, step=99)[0], loss, rtol=1e-6)


@pytest.mark.slow
def test_free_bits_floor_the_loss_and_stop_the_gradient(setup, key):
    params, batch = setup
    build = functools.partial(elbo, _encode, _decode, BernoulliLikelihood())

    def value(objective):
        return jax.jit(objective)(params, {}, batch, key=key, step=0)

    _, aux = value(build())
    for knobs, terms in [
        ({}, 4),
        ({"free_bits_groups": 2}, 2),
        ({"free_bits_over": "batch"}, 4),
    ]:
        loss, aux_floor = value(build(free_bits_nats=50.0, **knobs))  # above every term
        np.testing.assert_allclose(loss, aux.metrics["reconstruction_nats"] + 50.0 * terms, rtol=1e-5)
        np.testing.assert_allclose(aux_floor.metrics["elbo_nats"], aux.metrics["elbo_nats"], rtol=1e-6)


@pytest.mark.slow
def test_more_samples_give_a_tighter_bound_and_one_sample_the_elbo(setup, key):
    params, batch = setup

    def run(objective):
        return jax.jit(objective)(params, {}, batch, key=key, step=0)[1].metrics

    few, many = (run(iwae(_encode, _decode, BernoulliLikelihood(), samples=k)) for k in (1, 1000))
    metrics = run(elbo(_encode, _decode, BernoulliLikelihood(), samples=1000))
    assert metrics["elbo_nats"] < many["bound_nats"]
    np.testing.assert_allclose(few["effective_samples"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(many["elbo_nats"], metrics["elbo_nats"], rtol=1e-5)
    assert 1 <= many["effective_samples"] <= 1000


def test_binarised_images_are_bits_with_the_right_mean(key):
    grey = jnp.full((2000, 4), jnp.array([0.0, 0.2, 0.7, 1.0]))
    bits = binarise(grey, jax.random.split(key, 2000))
    assert set(np.unique(bits)) == {0.0, 1.0}
    np.testing.assert_allclose(bits.mean(axis=0), grey[0], atol=4 * 0.5 / np.sqrt(2000))
    assert bits[:, 0].max() == 0 and bits[:, 3].min() == 1


def test_active_dimensions_are_counted(key):
    def encode(params, x):
        mean_q = jnp.zeros((x.shape[0], 5)).at[:, :2].set(3.0)
        return mean_q, jnp.zeros_like(mean_q)

    objective = elbo(encode, lambda params, z: z[:, :1], GaussianLikelihood())
    _, aux = jax.jit(objective)({"vae": None}, {}, {"image": jnp.ones((4, 1))}, key=key, step=0)
    assert aux.metrics["active_dimensions"] == 2
    np.testing.assert_allclose(aux.metrics["kl_per_active_dimension_nats"], 4.5, rtol=1e-6)


def test_likelihoods_give_means_and_refuse_a_bad_scale():
    outputs = jnp.array([[0.0, 2.0]], jnp.bfloat16)
    np.testing.assert_allclose(BernoulliLikelihood().mean(outputs), [[0.5, 0.880797]], rtol=1e-5)
    for mean in (GaussianLikelihood().mean(outputs), LearnedGaussianLikelihood().mean((outputs, 0.0))):
        assert mean.dtype == jnp.float32
    with pytest.raises(ValueError, match="scale must be above 0"):
        GaussianLikelihood(0.0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"beta": -0.5}, "beta must be at least 0"),
        ({"free_bits_nats": -1.0}, "free_bits_nats must be at least 0"),
        ({"free_bits_groups": 0}, "free_bits_groups must be at least 1"),
    ],
)
def test_knobs_out_of_range_are_refused_when_built(knobs, message):
    with pytest.raises(ValueError, match=message):
        elbo(_encode, _decode, BernoulliLikelihood(), **knobs)


def test_bad_inputs_are_refused_with_a_sentence(setup, key):
    params, batch = setup
    objective = elbo(_encode, _decode, BernoulliLikelihood())
    with pytest.raises(ValueError, match='must hold "image"'):
        objective(params, {}, {"x_lr": batch["image"]}, key=key, step=0)
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        objective(params, {}, {"image": jnp.zeros((2, 2, 3, 1), jnp.uint8)}, key=key, step=0)
    bad = elbo(lambda p, x: (x, x[:1]), _decode, BernoulliLikelihood())
    with pytest.raises(ValueError, match="encode must return"):
        bad(params, {}, batch, key=key, step=0)
    wrong = elbo(_encode, lambda p, z: _decode(p, z)[..., 0], BernoulliLikelihood())
    with pytest.raises(ValueError, match=r"\(6, 2, 3\).*\(6, 2, 3, 1\)"):
        wrong(params, {}, batch, key=key, step=0)
    uneven = elbo(_encode, _decode, BernoulliLikelihood(), free_bits_nats=0.1, free_bits_groups=3)
    with pytest.raises(ValueError, match="must divide the 4"):
        uneven(params, {}, batch, key=key, step=0)
    with pytest.raises(ValueError, match="samples and chunk"):
        evaluate_bound(
            _encode, _decode, BernoulliLikelihood(), params["vae"], batch["image"], key=key, samples=0
        )


# --- the contract of `draw` ------------------------------------------------------------------------------


def _draw(params, features, keys, indices):
    """One layer, written out for a single sample and example and mapped twice."""
    del params
    mean_q, log_var_q = features

    def one(mean, log_var, key, index):
        noise = example_normal(jax.random.fold_in(key, index)[None], mean.shape)[0]
        z = mean + jnp.exp(0.5 * log_var) * noise
        scale = jnp.exp(0.5 * log_var)
        log_ratio = jax.scipy.stats.norm.logpdf(z) - jax.scipy.stats.norm.logpdf(z, mean, scale)
        return z, log_ratio.sum()

    over_examples = jax.vmap(one, in_axes=(0, 0, 0, None))
    z, log_ratio = jax.vmap(over_examples, in_axes=(None, None, None, 0))(mean_q, log_var_q, keys, indices)
    kl = kl_standard_normal(Normal(mean_q, log_var_q))
    kl = jnp.broadcast_to(kl[None], (len(indices), *kl.shape))
    return z.reshape(-1, *z.shape[2:]), log_ratio, kl  # a plain tuple serves as well


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("factory", [elbo, iwae])
def test_one_layer_is_the_special_case(factory, samples, setup, key):
    params, batch = setup
    found = [
        jax.jit(
            jax.value_and_grad(
                factory(_encode, _decode, BernoulliLikelihood(), draw=draw, samples=samples), has_aux=True
            )
        )(params, {}, batch, key=key, step=0)
        for draw in (_draw, None)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), *found)
    bound = functools.partial(evaluate_bound, _encode, _decode, BernoulliLikelihood(), samples=7, chunk=3)
    estimates = [
        jax.jit(functools.partial(bound, draw=draw, key=key))(params["vae"], batch["image"])
        for draw in (_draw, None)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *estimates)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_a_batch_of_one_and_no_compiler(dtype, setup, key):
    params, batch = setup
    one = {"image": batch["image"][:1].astype(dtype)}
    for factory in (elbo, iwae):
        objective = factory(_encode, _decode, BernoulliLikelihood(), draw=_draw, binarisation="dynamic")
        plain, _ = objective(params, {}, one, key=key, step=0)
        loss, aux = jax.jit(objective)(params, {}, one, key=key, step=0)
        np.testing.assert_allclose(plain, loss, rtol=1e-5)
        for value in (loss, *aux.metrics.values()):
            assert value.dtype == jnp.float32 and value.shape == () and np.isfinite(value)


@pytest.mark.slow
def test_draws_of_wrong_shapes_are_refused_with_a_sentence(setup, key):
    params, batch = setup
    build = functools.partial(elbo, _encode, _decode, BernoulliLikelihood())

    def run(change):
        def draw(*arguments):
            return change(Draws(*_draw(*arguments)))

        build(draw=draw, samples=3)(params, {}, batch, key=key, step=0)

    with pytest.raises(ValueError, match=r"draw must return log_ratio \[S, B\].*\(3, 6\).*\(6, 3\)"):
        run(lambda draws: draws._replace(log_ratio=draws.log_ratio.T))
    with pytest.raises(ValueError, match=r"kl \[S, B, G\] or \[1, B, G\].*\(2, 6, 4\)"):
        run(lambda draws: draws._replace(kl=draws.kl[:2]))
    with pytest.raises(ValueError, match="same shape"):
        run(lambda draws: draws._replace(z=draws.z[:6]))
    with pytest.raises(ValueError, match="samples must be at least 1"):
        iwae(_encode, _decode, BernoulliLikelihood(), draw=_draw, samples=0)
    with pytest.raises(ValueError, match="samples and chunk"):
        evaluate_bound(
            _encode, _decode, BernoulliLikelihood(), params["vae"], batch["image"],
            draw=_draw, key=key, chunk=0,
        )  # fmt: skip
    for factory, gradient in ((elbo, "stl"), (iwae, "stl"), (iwae, "dreg")):
        with pytest.raises(ValueError, match=f"\"pathwise\" with a draw of its own, got '{gradient}'"):
            factory(_encode, _decode, BernoulliLikelihood(), draw=_draw, gradient=gradient)


@pytest.mark.slow
def test_a_network_with_variables_gets_them_and_gives_new_ones(setup, key):
    """Spatial latents in two groups, drawn from the top down to the outputs, features with a running mean."""
    _, batch = setup
    weights = {"down": jnp.full((2,), 0.5), "up": jnp.full((2,), 0.3)}

    def encode(collections, x):
        mean = collections["running"]["mean"]
        features = (x - mean) * collections["params"]["up"][None, None, None]  # [B, 2, 3, 2]
        return features, {"running": {"mean": 0.9 * mean + 0.1 * x.mean()}}

    def draw(collections, given, keys, indices):
        features, own = given
        shape = (len(indices) * len(keys), *features.shape[1:3])
        kl, outputs = [], jnp.zeros(shape)
        for group, scale in enumerate(collections["params"]["down"]):
            noise = jax.vmap(
                lambda i, g=group: example_normal(
                    jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, i), g))(keys), shape[1:]
                )
            )(indices)
            # q moves its mean by the features, whatever p is: KL = features² / 2.
            z = features[None, ..., group] + noise
            outputs = outputs + scale * z.reshape(shape)
            kl.append(0.5 * jnp.square(features[..., group]).sum(axis=(1, 2)))
        kl = jnp.broadcast_to(jnp.stack(kl, axis=-1)[None], (len(indices), len(keys), 2))
        return Draws(outputs[..., None], -kl.sum(axis=2), kl, own)

    def decode(collections, outputs):
        assert set(collections) == {"params", "running"}
        return outputs

    variables = {"nvae": {"running": {"mean": jnp.float32(0.2)}}, "kept": jnp.ones(1)}
    mean = 0.9 * 0.2 + 0.1 * batch["image"].mean()
    costs = 0.5 * (0.3 * (np.asarray(batch["image"], np.float64) - 0.2)) ** 2
    for factory in (elbo, iwae):
        build = functools.partial(factory, encode, decode, BernoulliLikelihood(), draw=draw, player="nvae")
        run = jax.jit(build(samples=2))
        _, aux = run({"nvae": weights}, variables, batch, key=key, step=0)
        np.testing.assert_allclose(aux.variables["nvae"]["running"]["mean"], mean, rtol=1e-6)
        np.testing.assert_array_equal(aux.variables["kept"], [1.0])
        np.testing.assert_allclose(aux.metrics["kl_nats"], 2 * costs.sum(axis=(1, 2, 3)).mean(), rtol=1e-5)
    floored = jax.jit(elbo(encode, decode, BernoulliLikelihood(), draw=draw, player="nvae", free_bits_nats=9))
    loss, aux = floored({"nvae": weights}, variables, batch, key=key, step=0)
    np.testing.assert_allclose(loss, aux.metrics["reconstruction_nats"] + 2 * 9, rtol=1e-6)
    estimate = evaluate_bound(
        encode, decode, BernoulliLikelihood(), {"params": weights, **variables["nvae"]}, batch["image"],
        draw=draw, key=key, samples=2,
    )  # fmt: skip
    np.testing.assert_allclose(estimate.kl_nats, 2 * costs.sum(axis=(1, 2, 3)), rtol=1e-5)
