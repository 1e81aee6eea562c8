"""Batches of arrays in memory: the device's and the host's are equal; Blundell's curve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data


def table(size=10):
    return {"x": np.arange(size, dtype=np.float32)[:, None], "target": np.arange(size, dtype=np.int32)}


def batch_of(sampler, step, position):
    draw = jax.jit(lambda s: sampler(s, key=jax.random.key(0), step=step, position=jnp.asarray(position)))
    return draw(sampler.source())


@pytest.mark.slow
def test_an_epoch_visits_each_example_once_in_a_new_order():
    sampler = data.ArraySampler(table(), 5)
    epochs = []
    for epoch in range(2):
        parts = [np.asarray(batch_of(sampler, 2 * epoch + i, np.arange(5))["target"]) for i in range(2)]
        epochs.append(np.concatenate(parts))
        assert sorted(epochs[-1]) == list(range(10))
    assert (epochs[0] != epochs[1]).any()


def test_rows_stay_together_and_shards_take_their_own():
    sampler = data.ArraySampler(table(), 8)
    whole, part = batch_of(sampler, 3, np.arange(8)), batch_of(sampler, 3, np.arange(4, 8))
    np.testing.assert_array_equal(whole["x"][:, 0], whole["target"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b), whole, part)
    assert whole["x"].dtype == jnp.float32 and whole["target"].dtype == jnp.int32


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_may_exceed_the_table(size):
    assert batch_of(data.ArraySampler(table(size), 8), 0, np.arange(8))["x"].shape == (8, 1)


def test_the_host_path_equals_the_device_path():
    sampler = data.ArraySampler(table(), 4)
    with data.HostLoader(sampler, key=jax.random.key(0), start_step=2) as loader:
        for step in (2, 3):
            place = {"key": jax.random.key(0), "step": step, "position": np.arange(4)}
            host = sampler.host_batch(next(loader), **place)
            jax.tree.map(np.testing.assert_array_equal, host, batch_of(sampler, step, np.arange(4)))
    assert sampler.nbytes == 10 * 8 and data.fits_on_device(sampler) and sampler.bank is None


def test_wrong_tables_are_sentences():
    with pytest.raises(
        ValueError, match=r"arrays must have one length of at least 1, got \{'a': 2, 'b': 3\}"
    ):
        data.ArraySampler({"a": np.zeros(2), "b": np.zeros(3)}, 4)
    for arrays in ({}, {"a": np.zeros(0)}, {"a": np.float32(1)}):
        with pytest.raises(ValueError, match="arrays must have one length of at least 1"):
            data.ArraySampler(arrays, 4)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
        data.ArraySampler(table(), 0)


def test_the_curve_is_the_papers():
    line = data.blundell_curve(5, seed=0, low=0.0, high=1.0, noise=0.0)
    x = np.array([0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(line["x"][:, 0], x)
    np.testing.assert_allclose(line["target"], [0, 0.55, 0.5, 0.45, 1.0], atol=1e-6)


def test_the_noise_is_loud_where_the_curve_is_steep():
    points = data.blundell_curve(40_000, seed=1)
    x = points["x"][:, 0]
    assert (np.diff(x) >= 0).all() and x.min() >= 0 and x.max() <= 0.5
    noise = points["target"] - (x + 0.3 * np.sin(2 * np.pi * x) + 0.3 * np.sin(4 * np.pi * x))
    # To first order ε (1 + 0.6π cos 2πx + 1.2π cos 4πx): 6.65 ε at x = 0.
    assert np.std(noise[x < 0.01]) == pytest.approx(0.02 * 6.65, rel=0.1)
    slope = 1 + 0.6 * np.pi * np.cos(2 * np.pi * 0.3) + 1.2 * np.pi * np.cos(4 * np.pi * 0.3)
    assert np.std(noise[np.abs(x - 0.3) < 0.005]) == pytest.approx(0.02 * abs(slope), rel=0.1)
    again = data.blundell_curve(40_000, seed=1)
    np.testing.assert_array_equal(points["target"], again["target"])
    with pytest.raises(ValueError, match="blundell_curve: count must be at least 1, low below high"):
        data.blundell_curve(5, seed=0, low=1.0)
