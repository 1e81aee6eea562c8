"""The pointwise shuffle is a permutation, looks uniform, and its epochs never overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaesr.data import epoch_and_offset, shuffle_index

shuffled = jax.jit(shuffle_index, static_argnums=2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 100, 257, 4000])
def test_is_a_permutation(key: jax.Array, size: int) -> None:
    out = np.asarray(shuffled(key, jnp.arange(size), size))
    assert out.dtype == np.int32
    np.testing.assert_array_equal(np.sort(out), np.arange(size))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**31 - 1))
def test_is_a_permutation_for_any_size_and_key(size: int, seed: int) -> None:
    out = np.asarray(shuffled(jax.random.key(seed), jnp.arange(size), size))
    np.testing.assert_array_equal(np.sort(out), np.arange(size))


def test_large_size_has_no_collisions(key: jax.Array) -> None:
    size = 2**27 - 1
    some = jnp.arange(0, size, 1009)
    out = np.asarray(jax.jit(lambda k: shuffle_index(k, some, size))(key))
    assert len(np.unique(out)) == len(some)
    assert out.min() >= 0 and out.max() < size
    assert abs(out.mean() / size - 0.5) < 0.01


@pytest.mark.slow
def test_pointwise_equals_whole_and_jit(key: jax.Array) -> None:
    whole = shuffle_index(key, jnp.arange(50), 50)
    alone = [int(shuffled(key, jnp.int32(i), 50)) for i in range(0, 50, 7)]
    assert alone == [int(whole[i]) for i in range(0, 50, 7)]


@pytest.mark.parametrize("size", [5, 13, 24])
def test_pairs_of_places_are_uniform_over_keys(size: int) -> None:
    """Chi-square of (perm(0), perm(1)): all ordered pairs equally often; 6 sigma."""
    count = 400 * size * (size - 1)
    keys = jax.random.split(jax.random.key(1), count)
    out = np.asarray(jax.jit(jax.vmap(lambda k: shuffle_index(k, jnp.arange(2), size)))(keys))
    table = np.bincount(out[:, 0] * size + out[:, 1], minlength=size * size).reshape(size, size)
    assert np.trace(table) == 0
    off = table[~np.eye(size, dtype=bool)]
    freedom = len(off) - 1
    statistic = np.sum((off - count / len(off)) ** 2) / (count / len(off))
    assert abs(statistic - freedom) < 6 * np.sqrt(2 * freedom)


def test_neighbours_are_parted(key: jax.Array) -> None:
    """Successive differences of one large permutation are spread evenly."""
    size = 60_000
    out = np.asarray(jax.jit(lambda k: shuffle_index(k, jnp.arange(size), size))(key)).astype(np.int64)
    step = np.diff(out) % size
    table = np.bincount(step * 50 // size, minlength=50)
    expected = len(step) / 50
    assert np.sum((table - expected) ** 2) / expected < 49 + 6 * np.sqrt(98)
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.02


def test_keys_differ(key: jax.Array) -> None:
    a, b = (np.asarray(shuffled(jax.random.fold_in(key, e), jnp.arange(1000), 1000)) for e in (0, 1))
    assert (a == b).mean() < 0.02


@pytest.mark.parametrize("size", [0, -1, 2**27])
def test_size_is_checked(key: jax.Array, size: int) -> None:
    with pytest.raises(ValueError, match="size must be in"):
        shuffle_index(key, jnp.arange(3), size)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1), st.integers(1, 2**27 - 1)
)
def test_division_is_exact(step: int, position: int, batch: int, size: int) -> None:
    places = jnp.array([position, 0], jnp.int32)
    epoch, offset = epoch_and_offset(jnp.int32(step), places, batch_size=batch, size=size)
    for number, place in enumerate((position, 0)):
        quotient, remainder = divmod(step * batch + place, size)
        assert int(epoch[number]) == quotient % 2**32
        assert int(offset[number]) == remainder


def test_division_is_checked() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        epoch_and_offset(jnp.int32(0), jnp.arange(2), batch_size=0, size=5)
    with pytest.raises(ValueError, match="size"):
        epoch_and_offset(jnp.int32(0), jnp.arange(2), batch_size=1, size=2**27)
