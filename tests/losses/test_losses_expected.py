"""Losses averaged over random weights against sampling, and the cross-entropy against scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.test_util import check_grads

from vaesr.distributions import mean_field, mean_field_scales, sample_mean_field
from vaesr.losses import categorical_nll, expected_squared_error

# --- one hidden layer ------------------------------------------------------------------------------------


def _draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _network(bias: bool = True) -> dict:
    params = {
        "Dense_0": {"kernel": _draw(0, 3, 6), "bias": _draw(1, 6)},
        "Dense_1": {"kernel": _draw(2, 6, 2), "bias": _draw(3, 2)},
    }
    if not bias:
        for layer in params.values():
            del layer["bias"]
    return mean_field(params, scale=lambda path, leaf: 0.2 if path[-1] == "bias" else 0.4)


X, T = _draw(4, 5, 3), _draw(5, 5, 2)


def _apply(activation, params: dict) -> jax.Array:
    hidden, output = params["Dense_0"], params["Dense_1"]
    a = activation(X @ hidden["kernel"] + hidden.get("bias", jnp.zeros(6))[None])
    return a @ output["kernel"] + output.get("bias", jnp.zeros(2))[None]


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", jnp.tanh, jnp.sin])
def test_it_is_the_mean_over_sampled_weights(key, activation, bias):
    posterior, count = _network(bias), 100_000
    function = jax.nn.relu if activation == "relu" else activation

    def error(key):
        return jnp.square(_apply(function, sample_mean_field(posterior, key)) - T).sum(axis=1)

    errors = np.asarray(jax.jit(jax.vmap(error))(jax.random.split(key, count)), np.float64)
    exact = expected_squared_error(posterior, X, T, activation=activation)
    assert exact.shape == (5,) and exact.dtype == jnp.float32
    assert (np.abs(errors.mean(axis=0) - exact) / (errors.std(axis=0) / np.sqrt(count))).max() < 4


def test_a_linear_network_is_known_in_closed_form():
    """With f(a) = a: E = (t - x W1 W2)², and Var Σ w h = Σ (m² + s²) E[h²] - m² E[h]²."""
    posterior = _network(bias=False)
    exact = expected_squared_error(posterior, X, T, activation=lambda a: a, nodes=4)
    m = {n: np.asarray(posterior["mean"][n]["kernel"], np.float64) for n in ("Dense_0", "Dense_1")}
    s = {n: np.asarray(mean_field_scales(posterior)[n]["kernel"], np.float64) for n in m}
    h, variance = X @ m["Dense_0"], np.square(X) @ np.square(s["Dense_0"])
    second = np.square(h) + variance
    spread = second @ (np.square(m["Dense_1"]) + np.square(s["Dense_1"])) - np.square(h) @ np.square(
        m["Dense_1"]
    )
    np.testing.assert_allclose(exact, (np.square(T - h @ m["Dense_1"]) + spread).sum(axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", jnp.tanh])
def test_without_variance_it_is_the_squared_error(activation):
    posterior = {**_network(), "rho": {}}
    function = jax.nn.relu if activation == "relu" else activation
    expected = jnp.square(_apply(function, posterior["mean"]) - T).sum(axis=1)
    found, pull = jax.vjp(lambda q: expected_squared_error(q, X, T, activation=activation), posterior)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(pull(jnp.ones(5))))


@pytest.mark.slow
def test_gradient_jit_vmap_and_half_precision():
    posterior = _network()
    loss = lambda q: expected_squared_error(q, X, T).sum()
    check_grads(loss, (posterior,), order=1, modes=["rev"], atol=5e-2, rtol=2e-2)
    whole = expected_squared_error(posterior, X, T)
    np.testing.assert_allclose(jax.jit(expected_squared_error)(posterior, X, T), whole, rtol=1e-5)
    one = lambda x, t: expected_squared_error(posterior, x[None], t[None])[0]
    np.testing.assert_allclose(jax.vmap(one)(X, T), whole, rtol=1e-5)
    half = expected_squared_error(posterior, X.astype(jnp.bfloat16), T.astype(jnp.bfloat16))
    wide = expected_squared_error(posterior, *(a.astype(jnp.bfloat16).astype(jnp.float32) for a in (X, T)))
    np.testing.assert_array_equal(half, wide)


def test_layers_may_have_other_names():
    posterior = _network()
    named = {kind: {"first": tree["Dense_0"], "last": tree["Dense_1"]} for kind, tree in posterior.items()}
    np.testing.assert_array_equal(
        expected_squared_error(named, X, T, hidden="first", output="last"),
        expected_squared_error(posterior, X, T),
    )


def test_errors_name_what_does_not_fit():
    posterior = _network()
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 2\)"):
        expected_squared_error(posterior, X, T[:4])
    with pytest.raises(ValueError, match=r"2 units.*\(5, 1\)"):
        expected_squared_error(posterior, X, T[:, :1])
    with pytest.raises(ValueError, match=r"\(3, 6\); expected \(2, units\)"):
        expected_squared_error(posterior, X[:, :2], T)
    with pytest.raises(ValueError, match=r"no dense layer 'Dense_2'.*Dense_0"):
        expected_squared_error(posterior, X, T, output="Dense_2")


# --- cross-entropy ---------------------------------------------------------------------------------------


def test_categorical_nll_equals_sklearn():
    logits, labels = 3.0 * _draw(6, 20, 4), np.random.default_rng(7).integers(0, 4, 20)
    probabilities = np.exp(logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = categorical_nll(logits, jnp.asarray(labels))
    assert found.shape == (20,) and found.dtype == jnp.float32
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(4))
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-5)


def test_categorical_nll_sums_over_places():
    logits, labels = _draw(8, 3, 2, 5, 4), jnp.asarray(np.random.default_rng(9).integers(0, 4, (3, 2, 5)))
    flat = categorical_nll(logits.reshape(30, 4), labels.reshape(30)).reshape(3, 10).sum(axis=1)
    np.testing.assert_allclose(categorical_nll(logits, labels), flat, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(categorical_nll)(logits, labels), flat, rtol=1e-6)


@pytest.mark.slow
def test_categorical_gradient_is_probability_minus_label():
    logits, labels = _draw(10, 6, 4), jnp.arange(6) % 4
    gradient = jax.grad(lambda x: categorical_nll(x, labels).sum())(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jax.nn.one_hot(labels, 4), atol=1e-6)
    extreme = jnp.array([[1e4, 0.0, -1e4]])
    value, gradient = jax.value_and_grad(lambda x: categorical_nll(x, jnp.array([2])).sum())(extreme)
    assert value == 2e4 and np.isfinite(gradient).all()


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_are_no_class_are_not_silent(label):
    assert np.isnan(categorical_nll(_draw(11, 2, 4), jnp.array([0, label]))[1])


@pytest.mark.slow
def test_categorical_checks_and_types():
    logits, labels = _draw(12, 4, 3), jnp.zeros(4, jnp.int32)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(5,\)"):
        categorical_nll(logits, jnp.zeros(5, jnp.int32))
    with pytest.raises(ValueError, match=r"integers.*float32"):
        categorical_nll(logits, labels.astype(jnp.float32))
    half = categorical_nll(logits.astype(jnp.bfloat16), labels.astype(jnp.uint8))
    np.testing.assert_array_equal(
        half, categorical_nll(logits.astype(jnp.bfloat16).astype(jnp.float32), labels)
    )
    one = functools.partial(categorical_nll, logits[:1])
    np.testing.assert_allclose(one(labels[:1]), categorical_nll(logits, labels)[:1], rtol=1e-6)
