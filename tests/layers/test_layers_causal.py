"""Causal attention against a loop over sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr.layers.causal import CausalAttention


def attention_site_by_site(params, queries, context, heads, key_size):
    """float64, one site and one head after the other."""
    batch, height, width, _ = queries.shape
    project = lambda x, p: np.einsum(
        "bnc,chd->bnhd", np.asarray(x, np.float64).reshape(batch, height * width, -1), p["kernel"]
    ) + np.asarray(p["bias"])  # fmt: skip
    query, key, value = (
        project(x, params[n]) for x, n in ((queries, "query"), (context, "key"), (context, "value"))
    )
    found = np.zeros((batch, height * width, heads, value.shape[-1]))
    for b, site, head in np.ndindex(batch, height * width, heads):
        if site:
            scores = key[b, :site, head] @ query[b, site, head] / np.sqrt(key_size)
            weights = np.exp(scores - scores.max())
            found[b, site, head] = weights / weights.sum() @ value[b, :site, head]
    return found.reshape(batch, height, width, -1)


# Maps of one piece, of several with a shorter last one, and of more sites than the least piece can hold.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5), (9, 15), (24, 23)])
def test_attention_is_that_of_a_loop_over_sites(shape):
    layer = CausalAttention(8, shape, heads=2, key_size=4)
    queries, context = (
        jax.random.normal(jax.random.key(n), (2, *shape, width)) for n, width in ((0, 6), (1, 5))
    )
    params = layer.init(jax.random.key(2), queries, context)["params"]
    found = layer.apply({"params": params}, queries, context)
    expected = attention_site_by_site(params, queries, context, 2, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.asarray(found)[:, 0, 0].any()


@pytest.mark.slow
def test_gradients_are_finite_and_causal():
    layer = CausalAttention(4, (8, 10), heads=1, key_size=4)
    queries, context = (jax.random.normal(jax.random.key(n), (1, 8, 10, 3)) for n in (0, 1))
    params = layer.init(jax.random.key(2), queries, context)["params"]
    site = lambda context: layer.apply({"params": params}, queries, context)[0, 7, 2].sum()
    touched = np.abs(jax.grad(site)(context)).sum(-1)[0].ravel()
    assert (touched[:72] > 0).all() and not touched[72:].any()
    everything = lambda p: jnp.square(layer.apply({"params": p}, queries, context)).sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(everything)(params)))


@pytest.mark.slow
def test_bfloat16_stays_near():
    layer = CausalAttention(8, (12, 12), heads=2, key_size=8)
    queries, context = (jax.random.normal(jax.random.key(n), (2, 12, 12, 8)) for n in (0, 1))
    params = layer.init(jax.random.key(2), queries, context)["params"]
    low = layer.clone(dtype=jnp.bfloat16).apply({"params": params}, queries, context)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        low.astype(jnp.float32), layer.apply({"params": params}, queries, context), atol=0.05
    )
