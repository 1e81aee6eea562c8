"""Calibration metrics against scikit-learn, scipy, slow numpy versions and sets of known calibration."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import metrics

PER_EXAMPLE = {
    "classification_error": metrics.classification_error,
    "label_nll": metrics.label_nll,
    "brier_score": metrics.brier_score,
}
SET_LEVEL = {
    "expected_calibration_error": metrics.expected_calibration_error,
    "reliability_bins": metrics.reliability_bins,
}
per_example = pytest.mark.parametrize("metric", PER_EXAMPLE.values(), ids=PER_EXAMPLE.keys())
of_labels = pytest.mark.parametrize(
    "metric", [*PER_EXAMPLE.values(), *SET_LEVEL.values()], ids=[*PER_EXAMPLE, *SET_LEVEL]
)


def predictions(count=200, classes=5, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(count, classes))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs.astype(np.float32), rng.integers(0, classes, count).astype(np.int32)


def slow_bins(log_probs, labels, bins, mask=None):
    """Sums per bin, one example after the other."""
    sums = np.zeros((3, bins))
    probs = np.exp(log_probs.astype(np.float64))
    for i, label in enumerate(labels):
        weight = 1.0 if mask is None else mask[i]
        place = max(0, int(np.ceil(probs[i].max() * bins)) - 1)
        sums[:, min(place, bins - 1)] += weight * np.array([1.0, probs[i].max(), probs[i].argmax() == label])
    return sums


def test_per_example_against_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    log_probs, labels = predictions()
    probs = np.exp(log_probs.astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    error = metrics.classification_error(log_probs, labels)
    assert float(error.mean()) == pytest.approx(
        1 - sklearn.accuracy_score(labels, probs.argmax(-1)), abs=1e-6
    )
    nll = metrics.label_nll(log_probs, labels)
    assert float(nll.mean()) == pytest.approx(sklearn.log_loss(labels, probs), rel=1e-5)
    two, half = predictions(classes=2, seed=3)
    brier = metrics.brier_score(two, half)  # scikit-learn's score of two classes looks at one of them
    expected = sklearn.brier_score_loss(half, np.exp(two.astype(np.float64))[:, 1])
    assert float(brier.mean()) == pytest.approx(2 * expected, rel=1e-5)
    slow = ((np.exp(log_probs) - np.eye(5)[labels]) ** 2).sum(-1)
    np.testing.assert_allclose(metrics.brier_score(log_probs, labels), slow, rtol=1e-5)


def test_per_example_closed_forms():
    certain = jnp.log(jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    labels = jnp.array([0, 1])
    np.testing.assert_array_equal(metrics.classification_error(certain, labels), [0, 1])  # a tie: the first
    np.testing.assert_allclose(metrics.label_nll(certain, labels), [0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(metrics.brier_score(certain, labels), [0, 0.5], rtol=1e-6)
    wrong = jnp.array([1, 2])
    assert np.isposinf(metrics.label_nll(certain, wrong)[0]) and np.isnan(
        metrics.label_nll(certain, wrong)[1]
    )
    assert np.isnan(metrics.label_nll(certain, jnp.array([-1, 0]))[0])
    np.testing.assert_allclose(metrics.brier_score(certain, wrong)[0], 2.0)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("masked", [False, True])
def test_bins_and_ece_equal_the_slow_versions(bins, masked):
    log_probs, labels = predictions(seed=bins)
    mask = np.random.default_rng(1).uniform(size=len(labels)).round(1).astype(np.float32) if masked else None
    count, confidence, accuracy = slow_bins(log_probs, labels, bins, mask)
    found = metrics.reliability_bins(log_probs, labels, bins=bins, mask=mask)
    np.testing.assert_allclose(found.examples, count, rtol=1e-5)
    held = np.maximum(count, 1e-9)
    np.testing.assert_allclose(found.confidence, confidence / held, rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, accuracy / held, rtol=1e-5, atol=1e-6)
    ece = metrics.expected_calibration_error(log_probs, labels, bins=bins, mask=mask)
    assert float(ece) == pytest.approx(np.abs(accuracy - confidence).sum() / count.sum(), rel=1e-4)


@pytest.mark.slow
def test_padding_changes_nothing():
    log_probs, labels = predictions(50)
    padded = np.concatenate([log_probs, np.full((14, 5), np.nan, np.float32)])
    more, mask = np.pad(labels, (0, 14)), np.r_[np.ones(50), np.zeros(14)].astype(np.float32)
    for metric in SET_LEVEL.values():
        chex.assert_trees_all_close(metric(log_probs, labels), metric(padded, more, mask=mask), rtol=1e-6)
    assert np.isnan(metrics.expected_calibration_error(log_probs, labels, mask=np.zeros(50)))


def two_class_set(logit, count, temperature):
    """Labels that a share sigmoid(logit) of `count` equal examples gets right; logits sharpened by 1 / T."""
    right = round(count / (1 + np.exp(-logit)))
    logits = np.tile(np.array([[logit, 0.0]]) / temperature, (count, 1))
    labels = (np.arange(count) >= right).astype(np.int32)
    return np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))), labels, right / count


def test_known_calibration_of_temperature_scaled_logits():
    """|acc - sigmoid(logit / T)| averaged over groups, each in a bin of its own; 0 where T is 1."""
    for temperature in (0.3, 1.0, 2.5):
        groups = [two_class_set(logit, 10_000, temperature) for logit in (0.3, 1.2, 2.6)]
        log_probs = np.concatenate([group[0] for group in groups])
        labels = np.concatenate([group[1] for group in groups])
        expected = np.mean([abs(np.exp(group[0][0].max()) - group[2]) for group in groups])
        ece = float(metrics.expected_calibration_error(log_probs, labels))
        assert ece == pytest.approx(expected, abs=2e-5)
        assert (ece < 1e-4) == (temperature == 1.0)


@pytest.mark.slow
def test_labels_drawn_from_the_prediction_are_calibrated():
    key = jax.random.key(0)
    log_probs = jax.nn.log_softmax(2 * jax.random.normal(key, (40_000, 10)))
    labels = jax.random.categorical(jax.random.key(1), log_probs)
    few = metrics.expected_calibration_error(log_probs[:400], labels[:400])
    many = metrics.expected_calibration_error(log_probs, labels)
    sharper = metrics.expected_calibration_error(jax.nn.log_softmax(2 * log_probs), labels)
    assert float(many) < 0.01 < float(few) < 0.1 < float(sharper)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4, 1000])
def test_auroc_equals_scikit_learn(levels):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 500).astype(np.float32)  # many ties, or few
    positives = rng.uniform(size=500) < 0.2 + 0.5 * scores / levels
    found = float(metrics.auroc(scores, positives))
    assert found == pytest.approx(sklearn.roc_auc_score(positives, scores), abs=1e-6)
    mask = rng.uniform(size=500) < 0.7
    expected = sklearn.roc_auc_score(positives[mask], scores[mask])
    assert float(metrics.auroc(scores, positives, mask=mask)) == pytest.approx(expected, abs=1e-6)
    assert float(metrics.auroc(-scores, positives)) == pytest.approx(1 - found, abs=1e-6)


@pytest.mark.slow
def test_auroc_stays_exact_on_large_sets():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    out, inside = rng.normal(0.4, 1, 60_000), rng.normal(0, 1, 60_000)
    scores = np.concatenate([out, inside]).round(3).astype(np.float32)
    positives = np.arange(120_000) < 60_000
    statistic = stats.mannwhitneyu(scores[positives], scores[~positives], method="asymptotic").statistic
    assert float(metrics.auroc(scores, positives)) == pytest.approx(statistic / 60_000**2, abs=2e-6)


@pytest.mark.slow
def test_auroc_closed_forms_and_what_it_cannot_answer():
    scores = jnp.array([0.1, 0.2, 0.8, 0.9])
    assert float(metrics.auroc(scores, jnp.array([0, 0, 1, 1]))) == 1.0
    assert float(metrics.auroc(scores, jnp.array([True, True, False, False]))) == 0.0
    assert float(metrics.auroc(jnp.zeros(4), jnp.array([0, 1, 0, 1]))) == 0.5
    assert np.isnan(metrics.auroc(scores, jnp.ones(4, bool)))
    assert np.isnan(metrics.auroc(scores, jnp.zeros(4, bool)))
    broken = scores.at[1].set(jnp.nan)
    assert np.isnan(metrics.auroc(broken, jnp.array([0, 0, 1, 1])))
    assert float(metrics.auroc(broken, jnp.array([0, 0, 1, 1]), mask=jnp.array([1, 0, 1, 1]))) == 1.0
    with pytest.raises(TypeError, match="auroc: scores must be floating point"):
        metrics.auroc(jnp.arange(3), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="auroc: scores, positives and mask must be vectors"):
        metrics.auroc(scores, jnp.ones(3, bool))


def test_entropy_and_mutual_information_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    log_probs, _ = predictions(12 * 30, 6)
    members = log_probs.reshape(12, 30, 6)
    probs = np.exp(members.astype(np.float64))
    expected = stats.entropy(probs, axis=-1)
    np.testing.assert_allclose(metrics.predictive_entropy(members), expected, rtol=1e-4, atol=1e-6)
    bald = stats.entropy(probs.mean(0), axis=-1) - expected.mean(0)
    np.testing.assert_allclose(metrics.mutual_information(members), bald, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_entropy_closed_forms():
    with np.errstate(divide="ignore"):
        edge = np.log(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], np.float32))
    np.testing.assert_allclose(metrics.predictive_entropy(edge), [0, np.log(2)], atol=1e-7)
    gradient = jax.grad(lambda x: metrics.predictive_entropy(x).sum())(jnp.asarray(edge))
    assert np.isfinite(gradient).all()
    agree = np.broadcast_to(predictions(4)[0], (7, 4, 5))
    np.testing.assert_allclose(metrics.mutual_information(agree), 0, atol=1e-6)
    with np.errstate(divide="ignore"):
        opposed = np.log(np.stack([np.tile(row, (3, 1)) for row in np.eye(2, dtype=np.float32)]))
    np.testing.assert_allclose(metrics.mutual_information(opposed), np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match=r"must be \[R, B, K\]"):
        metrics.mutual_information(edge)


@of_labels
def test_jit_half_precision_and_a_batch_of_one(metric):
    log_probs, labels = predictions(33)
    chex.assert_trees_all_close(jax.jit(metric)(log_probs, labels), metric(log_probs, labels), rtol=1e-5)
    half = jnp.asarray(log_probs, jnp.bfloat16)
    found = metric(half, labels)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    chex.assert_trees_all_close(found, metric(half.astype(jnp.float32), labels))
    chex.assert_tree_all_finite(metric(log_probs[:1], labels[:1]))


@per_example
def test_vmap_over_members(metric):
    log_probs, labels = predictions(24)
    members = log_probs.reshape(3, 8, 5)
    mapped = jax.vmap(metric, in_axes=(0, None))(members, labels[:8])
    np.testing.assert_allclose(mapped, [metric(member, labels[:8]) for member in members], rtol=1e-6)


@pytest.mark.parametrize("metric", [metrics.label_nll, metrics.brier_score], ids=["nll", "brier"])
def test_gradients(metric):
    log_probs, labels = predictions(6)
    jax.test_util.check_grads(lambda x: metric(x, labels), (log_probs,), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.slow
def test_gradient_of_the_mutual_information():
    members = jnp.asarray(predictions(12)[0]).reshape(3, 4, 5)
    jax.test_util.check_grads(metrics.mutual_information, (members,), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.slow
@of_labels
def test_wrong_input_is_a_sentence(metric):
    log_probs, labels = predictions(8)
    name = metric.__name__
    with pytest.raises(
        ValueError, match=rf"{name}: log_probs and labels must be \[B, K\] and \[B\], got \(8, 5\)"
    ):
        metric(log_probs, labels[:7])
    with pytest.raises(TypeError, match=f"{name}: labels must be integers"):
        metric(log_probs, labels.astype(np.float32))
    with pytest.raises(TypeError, match=f"{name}: log-probabilities must be floating point"):
        metric(labels[:, None], labels)
    if name in SET_LEVEL:
        with pytest.raises(ValueError, match=f"{name}: bins must be at least 1, got 0"):
            metric(log_probs, labels, bins=0)
        with pytest.raises(ValueError, match=rf"{name}: mask must be \[8\], got shape \(3,\)"):
            metric(log_probs, labels, mask=np.ones(3))
