"""Quantisation primitives against brute force, NumPy recurrences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import losses, quantisation


def vectors(count, dim, *, seed=0, offset=0.0, dtype=np.float32):
    return (np.random.default_rng(seed).normal(size=(count, dim)) + offset).astype(dtype)


def brute_force(z, codebook):
    z, codebook = np.asarray(z, np.float64), np.asarray(codebook, np.float64)
    return np.square(z[:, None] - codebook[None]).sum(-1).argmin(1)


@pytest.mark.slow
@pytest.mark.parametrize(("codes", "dim", "offset"), [(64, 16, 0.0), (64, 16, 40.0), (2048, 8, 4.0)])
def test_the_nearest_code_is_that_of_float64(codes, dim, offset):
    z, codebook = vectors(4000, dim, offset=offset), vectors(codes, dim, seed=1, offset=offset)
    found = np.asarray(jax.jit(quantisation.nearest_codes)(z, codebook))
    wrong = np.flatnonzero(found != brute_force(z, codebook))
    # A tie in float32 may fall either way; none is further than rounding from the best.
    assert len(wrong) <= 2
    for index in wrong:
        distances = np.square(z[index].astype(np.float64) - codebook).sum(1)
        assert distances[found[index]] == pytest.approx(distances.min(), rel=1e-5)


@pytest.mark.slow
def test_chunks_shapes_and_ties():
    z, codebook = vectors(103, 4), vectors(9, 4, seed=1)
    whole = quantisation.nearest_codes(jnp.asarray(z), jnp.asarray(codebook))
    for chunk in (1, 7, 50, 103, 1000):
        part = quantisation.nearest_codes(jnp.asarray(z), jnp.asarray(codebook), chunk=chunk)
        np.testing.assert_array_equal(part, whole)
    maps = quantisation.nearest_codes(jnp.asarray(z[:100].reshape(5, 4, 5, 4)), jnp.asarray(codebook))
    assert maps.shape == (5, 4, 5) and maps.dtype == jnp.int32
    np.testing.assert_array_equal(maps.reshape(-1), whole[:100])
    twice = jnp.ones((3, 2))
    assert quantisation.nearest_codes(jnp.zeros((1, 2)), twice).item() == 0
    many = jnp.asarray(vectors(1 << 13, 2))
    small = jnp.asarray(vectors(4096, 2, seed=1))  # more distances than fit in one piece
    np.testing.assert_array_equal(quantisation.nearest_codes(many, small)[:64], brute_force(many[:64], small))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_inputs_are_compared_exactly(dtype):
    z, codebook = (
        jnp.asarray(vectors(2000, 64, offset=4), dtype),
        jnp.asarray(vectors(512, 64, seed=1, offset=4)),
    )
    found = np.asarray(quantisation.nearest_codes(z, codebook))
    assert (found != brute_force(z.astype(jnp.float32), codebook)).sum() <= 1


def test_bad_shapes_are_sentences():
    with pytest.raises(ValueError, match=r"z and codebook must be \[..., D\] and \[K, D\], got \(3, 2\)"):
        quantisation.nearest_codes(jnp.zeros((3, 2)), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="chunk must be at least 0, got -1"):
        quantisation.nearest_codes(jnp.zeros((3, 2)), jnp.zeros((3, 2)), chunk=-1)
    with pytest.raises(ValueError, match=r"z and codes must be \[..., D\] and \[...\]"):
        quantisation.code_statistics(jnp.zeros((3, 2)), jnp.zeros(4, int), 3)
    with pytest.raises(ValueError, match='form must be "auto"'):
        quantisation.code_statistics(jnp.zeros((3, 2)), jnp.zeros(3, int), 3, form="scatter")


@pytest.mark.slow
def test_statistics_in_both_forms_and_over_devices():
    z, codes = vectors(501, 3), np.random.default_rng(2).integers(0, 7, 501)
    counts = np.bincount(codes, minlength=8)
    sums = np.stack([z[codes == k].astype(np.float64).sum(0) for k in range(8)])
    for form in ("one_hot", "segment", "auto"):
        found = quantisation.code_statistics(jnp.asarray(z), jnp.asarray(codes), 8, form=form)
        np.testing.assert_array_equal(found[0], counts)
        np.testing.assert_allclose(found[1], sums, atol=1e-4)
    shards = jax.vmap(lambda z, c: quantisation.code_statistics(z, c, 8, axis_name="data"), axis_name="data")(
        jnp.asarray(z[:500].reshape(4, 125, 3)), jnp.asarray(codes[:500].reshape(4, 125))
    )
    whole = quantisation.code_statistics(jnp.asarray(z[:500]), jnp.asarray(codes[:500]), 8)
    for mine, all_ in zip(shards, whole, strict=True):
        np.testing.assert_allclose(mine[0], all_, atol=1e-4)
        np.testing.assert_array_equal(mine[0], mine[3])


@pytest.mark.slow
def test_many_vectors_are_cut_into_pieces(monkeypatch):
    """Pieces of 100 distances: with 103 and 120 vectors, filled up and not, on one device and on shards."""
    from vaesr.quantisation import assign

    whole = {}
    for size in (103, 120):
        z, codebook = jnp.asarray(vectors(size, 4)), jnp.asarray(vectors(9, 4, seed=1))
        codes = quantisation.nearest_codes(z, codebook)
        whole[size] = codes, *quantisation.code_statistics(z, codes, 9, form="one_hot")
    monkeypatch.setattr(assign, "_CELLS", 100)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for size, (codes, counts, sums) in whole.items():
        z, codebook = jnp.asarray(vectors(size, 4)), jnp.asarray(vectors(9, 4, seed=1))
        z = jax.device_put(z, sharding) if size % jax.device_count() == 0 else z
        assert assign._pieces(size, 100 // 9) == {103: 10, 120: 12}[size]
        np.testing.assert_array_equal(jax.jit(quantisation.nearest_codes)(z, codebook), codes)
        found = jax.jit(lambda z, c: quantisation.code_statistics(z, c, 9, form="one_hot"))(z, codes)
        np.testing.assert_array_equal(found[0], counts)
        np.testing.assert_allclose(found[1], sums, atol=1e-5)


@pytest.mark.slow
def test_looking_up_has_the_gradient_of_take():
    codebook = jnp.asarray(vectors(6, 3))
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 5, (4, 5)))  # code 5 is never used
    weights = jnp.asarray(vectors(20, 3, seed=4).reshape(4, 5, 3))
    ours = jax.grad(lambda e: (quantisation.lookup_codes(e, codes) * weights).sum())(codebook)
    takes = jax.grad(lambda e: (e[codes] * weights).sum())(codebook)
    np.testing.assert_allclose(ours, takes, atol=1e-5)
    assert not np.asarray(ours)[5].any()


def test_straight_through_is_the_identity_to_the_gradient():
    z, q = jnp.asarray(vectors(5, 3)), jnp.asarray(vectors(5, 3, seed=1)) + 1e6
    np.testing.assert_array_equal(quantisation.straight_through(z, q), q)  # to the last bit
    jacobian = jax.jacobian(lambda z: quantisation.straight_through(z, q).reshape(-1))(z).reshape(15, 15)
    np.testing.assert_array_equal(jacobian, np.eye(15))
    assert not np.asarray(jax.grad(lambda q: quantisation.straight_through(z, q).sum())(q)).any()
    with pytest.raises(ValueError, match="must have the same shape"):
        quantisation.straight_through(z, q[:1])


@pytest.mark.slow
def test_the_rotation_turns_vectors_and_gradients():
    z, q = jnp.asarray(vectors(5, 3)), jnp.asarray(vectors(5, 3, seed=1))
    np.testing.assert_allclose(quantisation.rotate_to(z, q), q, atol=1e-5)
    jacobian = jax.vmap(jax.jacobian(lambda z, q: quantisation.rotate_to(z[None], q[None])[0]))(z, q)
    for one, a, b in zip(np.asarray(jacobian), np.asarray(z), np.asarray(q), strict=True):
        scale = np.linalg.norm(b) / np.linalg.norm(a)
        np.testing.assert_allclose(one @ one.T, scale**2 * np.eye(3), atol=1e-4 * scale**2)
        assert np.linalg.det(one) == pytest.approx(scale**3, rel=1e-3)  # a rotation, no mirror
        np.testing.assert_allclose(one @ a, b, atol=1e-4)


def test_losses_and_their_gradients():
    z, q = jnp.asarray(vectors(4, 6).reshape(2, 2, 6)), jnp.asarray(vectors(4, 6, seed=1).reshape(2, 2, 6))
    expected = np.square(np.asarray(z - q)).reshape(2, -1).mean(1)
    for loss, moved in ((losses.codebook_loss, 1), (losses.commitment_loss, 0)):
        np.testing.assert_allclose(loss(z, q), expected, rtol=1e-6)
        grads = jax.grad(lambda z, q, loss=loss: loss(z, q).sum(), (0, 1))(z, q)
        # Analytic: 2 (own - other) / n, and nothing for the other.
        sign = 1 if moved == 0 else -1
        np.testing.assert_allclose(grads[moved], sign * 2 * (z - q) / 12, rtol=1e-5)
        assert not np.asarray(grads[1 - moved]).any()
        # A batch of two maps weighs a map as a batch of one does.
        np.testing.assert_allclose(loss(z[:1], q[:1]), expected[:1], rtol=1e-6)
    with pytest.raises(ValueError, match="z and quantised must have the same shape"):
        losses.codebook_loss(z, q[:1])


def test_moving_averages_are_the_numpy_recurrence():
    rng = np.random.default_rng(5)
    codes, decay, epsilon = rng.normal(size=(4, 3)), 0.9, 1e-3
    state = quantisation.CodebookState.create(jnp.asarray(codes, jnp.float32))
    hidden_counts, hidden_sums = np.zeros(4), np.zeros((4, 3))
    for step in range(1, 8):
        counts, sums = rng.integers(1, 9, 4).astype(float), rng.normal(size=(4, 3))
        state = quantisation.ema_update(
            state, jnp.float32(counts), jnp.float32(sums), decay=decay, epsilon=epsilon
        )
        hidden_counts += (counts - hidden_counts) * (1 - decay)
        hidden_sums += (sums - hidden_sums) * (1 - decay)
        average = hidden_counts / (1 - decay**step)
        total = average.sum()
        smoothed = (average + epsilon) / (total + 4 * epsilon) * total
        np.testing.assert_allclose(
            state.codes, hidden_sums / (1 - decay**step) / smoothed[:, None], rtol=2e-5, atol=1e-6
        )


@pytest.mark.slow
def test_without_memory_an_update_is_one_step_of_lloyd():
    z, codes = vectors(300, 2), vectors(5, 2, seed=3)
    state = quantisation.CodebookState.create(jnp.asarray(codes))
    chosen = quantisation.nearest_codes(jnp.asarray(z), state.codes)
    counts, sums = quantisation.code_statistics(jnp.asarray(z), chosen, 5)
    new = quantisation.ema_update(state, counts, sums, decay=0.0, epsilon=1e-9)
    for k in range(5):
        np.testing.assert_allclose(new.codes[k], z[np.asarray(chosen) == k].mean(0), atol=1e-5)


def test_a_code_that_was_never_chosen_stays_where_it_is():
    state = quantisation.CodebookState.create(jnp.eye(3))
    new = quantisation.ema_update(state, jnp.array([2.0, 0.0, 1.0]), 5 * jnp.eye(3))
    np.testing.assert_array_equal(new.codes[1], state.codes[1])
    assert np.isfinite(new.codes).all()
    for knobs in ({"decay": 1.0}, {"epsilon": 0.0}):
        with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\) and epsilon be above 0"):
            quantisation.ema_update(state, state.counts, state.sums, **knobs)
    with pytest.raises(ValueError, match="counts and sums must be"):
        quantisation.ema_update(state, jnp.zeros(2), state.sums)


@pytest.mark.slow
def test_kmeans_finds_clusters():
    rng = np.random.default_rng(6)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    z = (centres[rng.integers(0, 4, 800)] + 0.1 * rng.normal(size=(800, 2))).astype(np.float32)
    best = np.inf
    for seed in range(4):  # Lloyd's algorithm depends on where it starts
        codes = np.asarray(quantisation.kmeans(jnp.asarray(z), 4, jax.random.key(seed), iterations=20))
        error = np.square(z[:, None] - codes[None]).sum(-1).min(1).mean()
        best = min(best, error)
    assert best == pytest.approx(0.02, rel=0.1)
    start = quantisation.kmeans(jnp.asarray(z), 4, jax.random.key(0), iterations=0)
    assert all((z == code).all(1).any() for code in np.asarray(start))
    few = np.asarray(quantisation.kmeans(jnp.asarray(z[:3]), 8, jax.random.key(0)))
    assert few.shape == (8, 2) and np.isfinite(few).all()
    with pytest.raises(ValueError, match="count at least 1 and iterations at least 0"):
        quantisation.kmeans(jnp.asarray(z), 0, jax.random.key(0))


@pytest.mark.slow
def test_dead_codes_become_vectors_of_the_batch_and_live_on():
    z = jnp.asarray(vectors(50, 2))
    state = quantisation.CodebookState.create(jnp.full((6, 2), 100.0).at[0].set(0.0))
    for _ in range(3):
        codes = quantisation.nearest_codes(z, state.codes)
        state = quantisation.ema_update(state, *quantisation.code_statistics(z, codes, 6))
    revived, dead = quantisation.revive_codes(state, z, jax.random.key(0), threshold=0.5)
    np.testing.assert_array_equal(dead, [False] + [True] * 5)
    for code in np.asarray(revived.codes)[1:]:
        assert (np.asarray(z) == code).all(1).any()
    assert len(np.unique(np.asarray(revived.codes), axis=0)) == 6
    np.testing.assert_array_equal(revived.codes[0], state.codes[0])
    # The averages agree with the new codes: an update without news moves them only by its smoothing.
    codes = quantisation.nearest_codes(z, revived.codes)
    after = quantisation.ema_update(revived, *quantisation.code_statistics(z, codes, 6))
    _, dead = quantisation.revive_codes(after, z, jax.random.key(1), threshold=0.1)
    assert not np.asarray(dead).any()
    with pytest.raises(ValueError, match="threshold must be above 0, got 0"):
        quantisation.revive_codes(state, z, jax.random.key(0), threshold=0.0)


@pytest.mark.slow
def test_devices_revive_the_same_codes():
    z = jnp.asarray(vectors(64, 2).reshape(4, 16, 2))
    state = quantisation.CodebookState.create(jnp.full((3, 2), 100.0))._replace(weight=jnp.float32(1))
    key = jax.random.key(0)
    one, _ = quantisation.revive_codes(state, z.reshape(-1, 2), key, threshold=1.0)
    four, _ = jax.vmap(
        lambda z: quantisation.revive_codes(state, z, key, threshold=1.0, axis_name="data"), axis_name="data"
    )(z)
    for device in range(4):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_array_equal(a[d], b), four, one)


def test_perplexity_and_usage():
    assert quantisation.perplexity(jnp.full(16, 7.0)) == pytest.approx(16, rel=1e-6)
    assert quantisation.perplexity(jnp.zeros(16).at[3].set(5)) == pytest.approx(1)
    assert quantisation.perplexity(jnp.array([1.0, 1, 2])) == pytest.approx(2**1.5, rel=1e-6)
    assert quantisation.usage(jnp.array([0.0, 2, 1, 0])) == 0.5
    assert np.isnan(quantisation.perplexity(jnp.zeros(4)))


@pytest.mark.slow
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2,), (3, 4), (7, 2, 6)])
def test_finite_scalars_cover_their_grid(levels):
    count = quantisation.code_count(levels)
    values = quantisation.finite_scalar_values(jnp.arange(count), levels)
    assert values.shape == (count, len(levels)) and np.abs(values).max() <= 1
    assert len(np.unique(np.asarray(values), axis=0)) == count
    # Everything lands on the grid, and its code names the point.
    even = np.random.default_rng(0).uniform(-0.999, 0.999, (400_000, len(levels)))
    # Half of them far out: of two levels the lower one begins at -3.8.
    z = jnp.asarray(np.where(np.arange(400_000)[:, None] % 2, np.arctanh(even), 12 * even), jnp.float32)
    points, codes = jax.jit(lambda z: quantisation.finite_scalar(z, levels))(z)
    np.testing.assert_allclose(points, quantisation.finite_scalar_values(codes, levels), atol=1e-6)
    assert len(np.unique(codes)) == count and codes.min() >= 0 and codes.max() < count
    # Each dimension depends on its own input, and rises with it.
    for axis, size in enumerate(levels):
        line = jnp.zeros((500, len(levels))).at[:, axis].set(jnp.linspace(-9, 9, 500))
        found = np.asarray(quantisation.finite_scalar(line, levels)[0][:, axis])
        assert (np.diff(found) >= 0).all() and len(np.unique(found)) == size
    grads = jax.grad(lambda z: quantisation.finite_scalar(z, levels)[0].sum())(z[:50])
    assert np.isfinite(grads).all() and (np.asarray(grads) >= 0).all() and (np.asarray(grads) > 0).any()


@pytest.mark.slow
def test_bad_grids_are_sentences():
    for levels in ((), (1, 4), (2,) * 32):
        with pytest.raises(ValueError, match="levels must be numbers of at least 2"):
            quantisation.finite_scalar_values(jnp.zeros(3, int), levels)
    with pytest.raises(ValueError, match="z must end in the 2 dimensions"):
        quantisation.finite_scalar(jnp.zeros((3, 3)), (4, 4))
