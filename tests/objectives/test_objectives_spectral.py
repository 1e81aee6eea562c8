"""Spectral norms of many kernels against SVDs; the penalty's gradient; balanced KLs against the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses
from vaesr.objectives import VECTORS, Aux, spectral_norms, spectrally_regularised, start_spectral


def kernels(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 3, 4, 5), "b": (3, 3, 4, 5), "c": (1, 1, 8, 6), "d": (5, 5, 1, 7), "e": (1, 1, 36, 5)}
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def exact(given):
    """In the order of the values: by the matrices' shape, then by name."""
    matrices = {name: np.asarray(k, np.float64).reshape(-1, k.shape[-1]) for name, k in given.items()}
    order = sorted(matrices, key=lambda name: ("x".join(map(str, matrices[name].shape)), name))
    return [np.linalg.svd(matrices[name], compute_uv=False)[0] for name in order]


def test_norms_are_those_of_an_svd(key):
    given = kernels()
    values, vectors = spectral_norms(given, start_spectral(given, key=key, rounds=300))
    np.testing.assert_allclose(values, exact(given), rtol=1e-3)
    # Three kernels are matrices of one shape: two of 3x3, and one of 36 inputs.
    assert {name: v.shape for name, v in vectors.items()} == {"36x5": (3, 5), "8x6": (1, 6), "25x7": (1, 7)}


def test_forty_rounds_come_near_and_four_go_on(key):
    given = kernels()
    start = start_spectral(given, key=key)
    few, after = spectral_norms(given, start, rounds=4)
    np.testing.assert_allclose(few, exact(given), rtol=0.03)
    more, _ = spectral_norms(given, after, rounds=40)
    assert (np.asarray(few) <= np.asarray(exact(given)) * (1 + 1e-5)).all() and more.sum() >= few.sum() - 1e-4


def test_gradient_is_the_outer_product(key):
    """Of the largest singular value it is u vᵀ."""
    given = {"a": kernels()["a"]}
    vectors = start_spectral(given, key=key, rounds=500)
    slope = jax.grad(lambda k: spectral_norms({"a": k}, vectors)[0].sum())(given["a"])
    u, _, v = np.linalg.svd(np.asarray(given["a"], np.float64).reshape(-1, 5))
    np.testing.assert_allclose(slope.reshape(-1, 5), np.outer(u[:, 0], v[0]), atol=1e-3)


def test_penalty_is_added_and_vectors_move(key):
    given, scales = kernels(), {"n": jnp.array([0.5, -3.0]), "m": jnp.array([2.0])}
    start = start_spectral(given, key=key, rounds=2)

    def plain(params, variables, batch, *, key, step):
        return jnp.float32(1.0), Aux(
            {"one": jnp.float32(1.0)}, {"net": {**variables["net"], "batch_stats": 7}}
        )

    objective = spectrally_regularised(
        plain,
        lambda params: params["k"],
        lambda params: params["s"],
        player="net",
        weight=lambda step: 0.1 * step,
    )
    variables = {"net": {"batch_stats": 6, VECTORS: start}}
    loss, aux = objective({"net": {"k": given, "s": scales}}, variables, {}, key=key, step=jnp.int32(2))
    values, new = spectral_norms(given, start)
    np.testing.assert_allclose(loss, 1 + 0.2 * (values.sum() + 3 + 2), rtol=1e-6)
    assert aux.variables["net"]["batch_stats"] == 7
    jax.tree.map(np.testing.assert_array_equal, aux.variables["net"][VECTORS], new)
    np.testing.assert_allclose(aux.metrics["norm_scales"], 5.0)
    assert set(aux.metrics) == {"one", "spectral_norms", "norm_scales", "spectral_weight"}


def test_bad_input(key):
    given = kernels()
    vectors = start_spectral(given, key=key)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        spectral_norms(given, vectors, rounds=0)
    with pytest.raises(ValueError, match="vectors must be"):
        spectral_norms({"a": given["a"]}, vectors)


# --- balanced KL ----------------------------------------------------------------------------------------

KL = np.abs(np.random.default_rng(0).standard_normal((6, 3))).astype(np.float32) + np.float32([[0.1, 2, 5]])


def test_balanced_kl_weighs_groups_by_their_own():
    scales = (1.0, 2.0, 4.0)
    weights = (KL.mean(axis=0) + 0.01) / np.array(scales)
    weights /= weights.mean()
    np.testing.assert_allclose(
        losses.balanced_kl(jnp.float32(KL), scales=scales), (KL * weights).sum(axis=1), rtol=1e-5
    )
    # Nothing flows through the weights, whose mean is 1.
    slope = jax.grad(lambda kl: losses.balanced_kl(kl, scales=scales).sum())(jnp.float32(KL))
    np.testing.assert_allclose(slope, np.broadcast_to(weights, KL.shape), rtol=1e-5)
    np.testing.assert_allclose(slope[0].mean(), 1.0, rtol=1e-6)


def test_balanced_kl_of_all_devices():
    parts = jnp.float32(KL)[:4].reshape(4, 1, 3)
    found = jax.pmap(lambda kl: losses.balanced_kl(kl, scales=(1, 2, 4), axis_name="d"), axis_name="d")(parts)
    np.testing.assert_allclose(found.ravel(), losses.balanced_kl(parts[:, 0], scales=(1, 2, 4)), rtol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0, 0.0)])
def test_balanced_kl_refuses(scales):
    with pytest.raises(ValueError, match="scales must be 3 numbers above 0"):
        losses.balanced_kl(jnp.float32(KL), scales=scales)
    with pytest.raises(ValueError, match=r"kl must be \[B, G\]"):
        losses.balanced_kl(jnp.zeros(3), scales=(1.0,))
