"""FID, KID, precision and recall against closed forms and slow versions, streamed and spread over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import as_for_users

import vaesr.metrics as m


def features(count, dim, seed=0, shift=0.0, spread=1.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(dim, dim)) / dim**0.5
    return (rng.normal(size=(count, dim)) @ mixing * spread + shift + 5).astype(np.float32)


def test_frechet_distance_of_known_gaussians():
    """Statistics of exactly known mean and covariance, against the closed form of commuting covariances."""
    variances = np.array([[1.0, 4.0, 0.25], [9.0, 1.0, 0.25]])
    means = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    of = lambda i: m.FeatureStatistics(
        jnp.float32(11), jnp.asarray(means[i]), jnp.asarray(10 * turn @ np.diag(variances[i]) @ turn.T)
    )
    expected = (
        np.square(means[0] - means[1]).sum() + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    )
    assert m.frechet_distance(of(0), of(1)) == pytest.approx(expected, rel=1e-5)
    assert m.frechet_distance(of(0), of(0)) == pytest.approx(0, abs=1e-5)


def test_frechet_distance_is_scipys_and_streams():
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(700, 40), features(500, 40, seed=1, shift=0.3, spread=1.2)
    covariances = [np.cov(i.astype(np.float64), rowvar=False) for i in (x, y)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = np.square(x.mean(0, dtype=float) - y.mean(0, dtype=float)).sum()
    expected = apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert m.frechet_distance(m.feature_statistics(x), m.feature_statistics(y)) == pytest.approx(
        expected, rel=1e-4
    )

    # In batches, the last one filled up with nonsense.
    @functools.partial(jax.jit, donate_argnums=0)
    def update(statistics, batch, valid):
        return m.merge_statistics(statistics, m.feature_statistics(batch, valid=valid))

    def stream(rows, size=128):
        dim = rows.shape[1]
        statistics = m.FeatureStatistics(jnp.zeros(()), jnp.zeros(dim), jnp.zeros((dim, dim)))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            full = np.full((size, dim), np.nan, np.float32)
            full[: len(part)] = part
            statistics = update(statistics, full, np.arange(size) < len(part))
        return statistics

    assert m.frechet_distance(stream(x), stream(y)) == pytest.approx(expected, rel=1e-4)


def test_statistics_of_a_batch_over_devices():
    x = features(256, 16)
    expected = m.feature_statistics(x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-3),
        jax.jit(m.feature_statistics)(spread),
        expected,
    )

    def own(part):
        every = jax.lax.all_gather(m.feature_statistics(part), "data")
        return functools.reduce(
            m.merge_statistics, [jax.tree.map(lambda leaf, i=i: leaf[i], every) for i in range(4)]
        )

    found = jax.pmap(own, axis_name="data")(x.reshape(4, 64, 16))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-3), found, expected)


@pytest.mark.slow
def test_kernel_distance_is_the_definition(key):
    x, y = features(30, 8), features(30, 8, seed=1, shift=0.2)
    kernel = lambda a, b: (a.astype(float) @ b.T.astype(float) / 8 + 1) ** 3
    a, b, c = kernel(x, x), kernel(y, y), kernel(x, y)
    off = ~np.eye(30, dtype=bool)
    expected = a[off].mean() + b[off].mean() - 2 * c.mean()
    # Subsets of all features differ in their order only.
    whole = as_for_users(functools.partial(m.kernel_distance, subsets=2))(x, y, key=key)
    assert float(whole.mean) == pytest.approx(expected, rel=1e-4)
    assert float(whole.deviation) == pytest.approx(0, abs=1e-4 * abs(expected))
    # Unbiased: about 0 for two halves of one set, where the biased estimate is not.
    same = m.kernel_distance(
        features(2000, 8), features(2000, 8, seed=2), key=key, subsets=50, subset_size=100
    )
    error = float(same.deviation) / 50**0.5
    assert abs(float(same.mean)) < 4 * error + 1e-3
    apart = m.kernel_distance(features(2000, 8), features(2000, 8, seed=2, shift=1), key=key, subset_size=100)
    assert float(apart.mean) > 10 * abs(float(same.mean))


def slow_manifolds(real, generated, k):
    distance = lambda a, b: np.linalg.norm(a[:, None].astype(float) - b[None].astype(float), axis=-1)
    radius = lambda a: np.sort(distance(a, a), axis=1)[:, k]
    across = distance(real, generated)
    in_real, in_generated = across <= radius(real)[:, None], across <= radius(generated)[None]
    return (
        in_real.any(0).mean(), in_generated.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_the_definition(k):
    real, generated = features(150, 6), features(90, 6, seed=1, shift=0.4, spread=0.7)
    expected = slow_manifolds(real, generated, k)
    for chunk in (7, 1024):
        np.testing.assert_allclose(
            m.precision_recall(real, generated, neighbours=k, chunk=chunk), expected, atol=1e-6
        )
    far = m.precision_recall(real, generated + 100)
    np.testing.assert_array_equal(far, 0)
    # A set that shows one mode only: faithful, but not varied.
    two = np.concatenate([real, real + 100])
    precision, recall, _, coverage = m.precision_recall(two, real + np.float32(1e-3), neighbours=k)
    assert float(precision) == 1 and float(recall) == float(coverage) == 0.5


@pytest.mark.slow
def test_bad_sets_are_named(key):
    x = features(10, 4)
    for call, words in (
        (lambda: m.feature_statistics(x, valid=np.ones(3, bool)), "valid"),
        (lambda: m.frechet_distance(m.feature_statistics(x), m.feature_statistics(x[:, :3])), "4 and of 3"),
        (lambda: m.frechet_distance(m.feature_statistics(x[:1]), m.feature_statistics(x)), "first holds 1"),
        (lambda: m.frechet_distance(m.feature_statistics(x * np.nan), m.feature_statistics(x)), "finite"),
        (lambda: m.kernel_distance(x, x[:, :3], key=key), "4 and of 3"),
        (lambda: m.kernel_distance(x, x[:1], key=key), "at least 2"),
        (lambda: m.precision_recall(x, x[:3]), "neighbours"),
        (lambda: m.precision_recall(x[0], x), "N, D"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="floating"):
        m.feature_statistics(np.ones((3, 3), int))
