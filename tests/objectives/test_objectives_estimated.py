"""The ELBO with any gradient estimator: one objective, one expectation, different noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaesr.distributions import MovingAverage, measure_valued, pathwise, score_function
from vaesr.objectives import BernoulliLikelihood, elbo, estimated_elbo
from vaesr.training import Player, create_state, make_train_step

ESTIMATORS = {
    "pathwise": pathwise,
    "score": score_function,
    "leave_one_out": functools.partial(score_function, baseline="leave_one_out"),
    "optimal": functools.partial(score_function, baseline="optimal"),
    "measure_valued": measure_valued,
}


def _encode(params, x):
    features = x.reshape(x.shape[0], -1) @ params["in"]
    return features[:, :2], features[:, 2:]


def _decode(params, z):
    return (z @ params["out"]).reshape(-1, 2, 3, 1)


BUILD = functools.partial(estimated_elbo, _encode, _decode, BernoulliLikelihood())


@pytest.fixture
def setup():
    generator = np.random.default_rng(0)
    params = {
        "vae": {
            "in": jnp.asarray(0.3 * generator.normal(size=(6, 4)), jnp.float32),
            "out": jnp.asarray(generator.normal(size=(2, 6)), jnp.float32),
        }
    }
    images = jnp.asarray(generator.random((4, 2, 3, 1)) < 0.5, jnp.float32)
    return params, {"image": images, "position": jnp.arange(4)}


@pytest.mark.slow
def test_pathwise_is_the_elbo_itself(setup, key):
    params, batch = setup
    ours = jax.jit(BUILD(estimator=pathwise, samples=3))
    theirs = jax.jit(elbo(_encode, _decode, BernoulliLikelihood(), samples=3))
    loss, aux = ours(params, {}, batch, key=key, step=0)
    expected, expected_aux = theirs(params, {}, batch, key=key, step=0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, value in aux.metrics.items():
        np.testing.assert_allclose(value, expected_aux.metrics[name], rtol=1e-5)
        assert value.dtype == jnp.float32
    one, other = (
        jax.grad(lambda p, f=f: f(p, {}, batch, key=key, step=0)[0])(params) for f in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "pathwise"])
def test_encoder_gradients_have_the_same_mean(name, setup, key):
    params, batch = setup
    count = 20_000

    def gradients(estimator):
        objective = BUILD(estimator=estimator, samples=4)
        one = jax.grad(lambda p, key: objective(p, {}, batch, key=key, step=0)[0])
        run = jax.jit(lambda keys: jax.lax.map(lambda key: one(params, key)["vae"], keys, batch_size=1000))
        return jax.tree.map(np.asarray, run(jax.random.split(key, count)))

    ours, reference = gradients(ESTIMATORS[name]), gradients(pathwise)
    for leaf in ("in", "out"):
        error = np.sqrt((ours[leaf].var(axis=0) + reference[leaf].var(axis=0)) / count)
        assert (np.abs(ours[leaf].mean(axis=0) - reference[leaf].mean(axis=0)) < 4.5 * error + 1e-6).all()
    # The decoder's gradient is the same, whatever the encoder's is.
    np.testing.assert_allclose(ours["out"], reference["out"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_moving_average_lives_in_the_state_and_lowers_the_variance(setup, key):
    params, batch = setup
    objective = BUILD(estimator=score_function, baseline_decay=0.9)
    player = Player(objective, optax.sgd(0.0))
    start = {"vae": {"baseline": MovingAverage.create()}}
    state = create_state(lambda _: (params, start), {"vae": player}, key=key)
    step = jax.jit(make_train_step({"vae": player}))
    values = []
    for _ in range(60):
        state, metrics = step(state, batch)
        values.append(-metrics["reconstruction_nats"])
    average = MovingAverage(*state.variables["vae"]["baseline"])
    weights = 0.9 ** np.arange(60)[::-1]
    np.testing.assert_allclose(average.value, np.average(values, weights=weights), rtol=1e-4)

    def spread(variables):
        one = jax.grad(lambda p, key: objective(p, variables, batch, key=key, step=0)[0])
        found = jax.vmap(lambda key: one(params, key)["vae"]["in"])(jax.random.split(key, 2000))
        return float(found.var(axis=0).sum())

    assert spread(state.variables) < 0.7 * spread(start)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_split_batch_has_the_same_gradient(name, setup, key):
    params, batch = setup
    objective = BUILD(estimator=ESTIMATORS[name], samples=2, binarisation="dynamic")
    gradient = jax.grad(lambda p, batch: objective(p, {}, batch, key=key, step=0)[0])
    whole = gradient(params, batch)
    halves = [gradient(params, jax.tree.map(lambda x: x[i : i + 2], batch)) for i in (0, 2)]  # noqa: B023
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, mean)


@pytest.mark.slow
def test_bad_knobs_are_refused_with_a_sentence(setup, key):
    params, batch = setup
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        BUILD(estimator=pathwise, samples=0)
    with pytest.raises(ValueError, match=r"baseline_decay must lie in \(0, 1\), got 1.0"):
        BUILD(estimator=score_function, baseline_decay=1.0)
    objective = BUILD(estimator=score_function, baseline_decay=0.9)
    with pytest.raises(ValueError, match=r'needs variables\["vae"\]\["baseline"\]'):
        objective(params, {}, batch, key=key, step=0)
