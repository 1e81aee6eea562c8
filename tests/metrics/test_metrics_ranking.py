"""Ranks, their fusion, and correlations with subjective scores, against scipy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaesr.metrics as m

stats = pytest.importorskip("scipy.stats")


def test_ranks_are_scipys():
    scores = np.random.default_rng(0).integers(0, 9, (3, 40)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(m.rank)(scores), stats.rankdata(-scores, axis=1))
    np.testing.assert_array_equal(m.rank(scores, higher_is_better=False), stats.rankdata(scores, axis=1))


@pytest.mark.slow
def test_fusion_by_hand():
    scores = jnp.asarray([[3.0, 2.0, 1.0], [0.2, 0.1, 0.3]])
    found = m.reciprocal_rank_fusion(scores, higher_is_better=[True, False], k=1, weights=[2.0, 1.0])
    np.testing.assert_allclose(found, [2 / 2 + 1 / 3, 2 / 3 + 1 / 2, 2 / 4 + 1 / 4], rtol=1e-6)
    np.testing.assert_allclose(m.borda_fusion(scores, higher_is_better=[True, False]), [0.75, 0.75, 0.0])
    weighted = m.borda_fusion(scores, higher_is_better=[True, False], weights=[3.0, 1.0])
    np.testing.assert_allclose(weighted, [0.875, 0.625, 0.0])
    # With a large k reciprocal ranks are straight lines: Borda's order.
    many = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    far = m.reciprocal_rank_fusion(many, higher_is_better=[True] * 4, k=500.0)
    ranks = stats.rankdata(-many, axis=1)
    np.testing.assert_allclose(far, (1 / (500 + ranks)).sum(0), rtol=1e-6)
    assert stats.spearmanr(far, m.borda_fusion(many, higher_is_better=[True] * 4)).statistic > 0.99


def test_fusion_beats_its_members_where_they_err_apart():
    """Four raters that err independently."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=3000)
    raters = truth + rng.normal(size=(4, 3000)) * 0.12
    raters[1] *= -1
    directions = [True, False, True, True]
    srcc = lambda scores: abs(stats.spearmanr(scores, truth).statistic)
    best = max(srcc(row) for row in raters)
    fused = m.reciprocal_rank_fusion(raters, higher_is_better=directions, k=3000.0)
    assert srcc(fused) > best + 0.02
    assert srcc(m.borda_fusion(raters, higher_is_better=directions)) > best + 0.02
    assert srcc(m.reciprocal_rank_fusion(raters, higher_is_better=directions)) > best


def test_isotonic_calibration():
    rng = np.random.default_rng(1)
    truth = np.sort(rng.uniform(size=200))
    base = truth**3 + rng.normal(size=200) * 0.05
    found = m.isotonic_calibration(truth, base)
    assert (np.diff(found) >= 0).all() and found.mean() == pytest.approx(base.mean())
    assert np.square(found - truth**3).mean() < np.square(base - truth**3).mean() / 2
    falling = m.isotonic_calibration(truth, -base, higher_is_better=False)
    np.testing.assert_allclose(falling, -found)
    tied = m.isotonic_calibration([1, 1, 2], [5.0, 3.0, 9.0])
    np.testing.assert_allclose(tied, [4, 4, 9])


@pytest.mark.parametrize("fit", ["logistic4", "logistic5"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_fit_finds_a_logistic(fit, sign):
    rng = np.random.default_rng(2)
    x = rng.uniform(20, 45, 300)
    clean = 10 + 80 / (1 + np.exp(-sign * 0.4 * (x - 31)))
    found = m.agreement(x, clean, fit=fit)
    assert abs(found.plcc) > 0.99999 and found.rmse < 0.1 and found.srcc == pytest.approx(sign)
    noisy = m.agreement(x, clean + rng.normal(size=300) * 5, fit=fit)
    assert noisy.rmse == pytest.approx(5, rel=0.15) and noisy.fit == fit
    assert m.agreement(x, clean, fit="none").plcc == pytest.approx(np.corrcoef(x, clean)[0, 1])
    # The parameters are in the scores' own units.
    b = found.parameters
    if fit == "logistic5":
        again = b[0] * (0.5 - 1 / (1 + np.exp(b[1] * (x - b[2])))) + b[3] * x + b[4]
    else:
        again = (b[0] - b[1]) / (1 + np.exp(-(x - b[2]) / abs(b[3]))) + b[1]
    np.testing.assert_allclose(again, clean, atol=0.5)


@pytest.mark.slow
def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 20, (2, 100))
    found = m.agreement(x, x + y)
    assert found.srcc == pytest.approx(stats.spearmanr(x, x + y).statistic)
    assert found.krcc == pytest.approx(stats.kendalltau(x, x + y).statistic)
    assert found.number == 100


def test_bad_input_is_named():
    x = np.arange(10.0)
    for call, words in (
        (lambda: m.agreement(x, x[:9]), r"\[N\]"),
        (lambda: m.agreement(x, x, fit="cubic"), "cubic"),
        (lambda: m.agreement(x[:4], x[:4]), "too few"),
        (lambda: m.agreement(np.where(x > 8, np.nan, x), x), "objective holds 1"),
        (lambda: m.agreement(x, 0 * x), "subjective are 0"),
        (lambda: m.reciprocal_rank_fusion(x[None], higher_is_better=[True, False]), "directions"),
        (lambda: m.reciprocal_rank_fusion(x[None], higher_is_better=[True], k=-1), "k must"),
        (lambda: m.borda_fusion(x[None], higher_is_better=[True], weights=x), "weights"),
        (lambda: m.isotonic_calibration(x, x[:3]), r"\[N\]"),
        (lambda: m.rank(jnp.zeros((2, 0))), "N at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
