"""Predictions over a split, their scores, and foreign images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators, metrics

pytestmark = pytest.mark.usefixtures("use_cache")


def write_images(folder, shape=(6, 5), count=40, seed=0, colour=False):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shape = (*shape, 3) if colour else shape
    np.save(folder / "train.npy", rng.integers(0, 256, (count, *shape), dtype=np.uint8))
    np.save(folder / "train_labels.npy", rng.integers(0, 3, count).astype(np.int32))
    return f"npy:{folder}"


@jax.jit
def predict(params, images, position):
    """Two members; the second's logits carry the position, so that its way here is seen."""
    logits = images.reshape(len(images), -1) @ params
    shifted = logits + position[:, None] * jnp.array([[1e-3, 0.0, 0.0]])
    return jax.nn.log_softmax(jnp.stack([logits, shifted]))


PARAMS = jnp.asarray(np.random.default_rng(1).normal(size=(30, 3)), jnp.float32)


def test_predictions_do_not_depend_on_the_batch_size(tmp_path):
    bank = data.open_bank(write_images(tmp_path / "a"), progress=False)
    whole = evaluators.predict_split(predict, PARAMS, bank, "train", batch_size=64)
    parts = evaluators.predict_split(predict, PARAMS, bank, "train", batch_size=7)
    index = bank.split("train")
    assert whole.log_probs.shape == (2, len(index), 3)
    np.testing.assert_array_equal(whole.labels, bank.labels[index])
    np.testing.assert_allclose(parts.log_probs, whole.log_probs, rtol=1e-4, atol=1e-6)
    images = bank.pixels[index].astype(np.float32) / 255
    again = evaluators.predict_images(predict, PARAMS, images, batch_size=9)
    np.testing.assert_allclose(again.log_probs, whole.log_probs, rtol=1e-4, atol=1e-6)
    assert again.labels is None
    few = evaluators.predict_split(predict, PARAMS, bank, "train", batch_size=8, limit=10)
    spread = np.arange(10) * len(index) // 10
    np.testing.assert_array_equal(few.labels, bank.labels[index[spread]])


def members(seed=0, count=50):
    rng = np.random.default_rng(seed)
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(rng.normal(size=(4, count, 3)), jnp.float32)))
    return evaluators.Members(log_probs, rng.integers(0, 3, count).astype(np.int32))


@pytest.mark.slow
def test_scores_are_those_of_the_averaged_probabilities():
    found = members()
    mean = np.exp(found.log_probs.astype(np.float64)).mean(0)
    np.testing.assert_allclose(np.exp(found.mean), mean, rtol=1e-5)
    scores = evaluators.measure_members(found)
    assert scores["error_percent"] == pytest.approx(100 * (mean.argmax(-1) != found.labels).mean(), abs=1e-4)
    assert scores["nll_nats"] == pytest.approx(-np.log(mean[np.arange(50), found.labels]).mean(), rel=1e-5)
    assert scores["brier"] == pytest.approx(((mean - np.eye(3)[found.labels]) ** 2).sum(-1).mean(), rel=1e-5)
    assert scores["ece"] == pytest.approx(float(metrics.expected_calibration_error(found.mean, found.labels)))
    assert found.only(1).mean == pytest.approx(found.log_probs[0], abs=1e-6)
    with pytest.raises(ValueError, match="members must have labels"):
        evaluators.measure_members(found._replace(labels=None))


@pytest.mark.slow
def test_foreign_images_are_detected_by_entropy_and_disagreement():
    sklearn = pytest.importorskip("sklearn.metrics")
    inside, outside = members(0), members(1, 30)
    inside = inside._replace(log_probs=np.asarray(jax.nn.log_softmax(3 * inside.log_probs)))
    found = evaluators.detect_foreign(inside, outside)
    entropy = [np.asarray(metrics.predictive_entropy(each.mean)) for each in (inside, outside)]
    expected = sklearn.roc_auc_score(np.arange(80) >= 50, np.concatenate(entropy))
    assert found["ood_auroc"] == pytest.approx(expected, abs=1e-6) and expected > 0.7
    assert 0 < found["ood_auroc_mutual_information"] < 1
    assert set(evaluators.detect_foreign(inside.only(1), outside.only(1))) == {"ood_auroc"}


def test_foreign_images_come_in_the_networks_shape(tmp_path):
    grey, colour = write_images(tmp_path / "grey"), write_images(tmp_path / "colour", colour=True)
    bank = data.open_bank(grey, progress=False)
    same = evaluators.foreign_images(grey, (6, 5, 1))
    np.testing.assert_allclose(same, bank.pixels[bank.split("test")] / np.float32(255), atol=1e-6)
    resized = evaluators.foreign_images(grey, (8, 8, 1), limit=3)
    assert resized.shape == (3, 8, 8, 1) and resized.min() >= 0 and resized.max() <= 1
    luma = evaluators.foreign_images(colour, (6, 5, 1))
    pixels = data.open_bank(colour, progress=False)
    pixels = pixels.pixels[pixels.split("test")] / 255.0
    np.testing.assert_allclose(luma[..., 0], pixels @ [0.299, 0.587, 0.114], atol=2e-3)
    with pytest.raises(ValueError, match="has 1 channels and the network takes 3"):
        evaluators.foreign_images(grey, (6, 5, 3))


@pytest.mark.slow
def test_photos_are_cut_into_patches():
    patches = evaluators.foreign_images("embedded:photos", (28, 28, 1), limit=500)
    assert patches.shape == (500, 28, 28, 1) and patches.dtype == np.float32
    assert 0 <= patches.min() < 0.05 and 0.95 < patches.max() <= 1
    colour = evaluators.foreign_images("embedded:photos", (28, 28, 3), limit=5)
    first = next(photo for _, photo in data.photos(data.open_bank("embedded:photos"), "test"))
    np.testing.assert_allclose(colour[0], first[:28, :28] / 255.0, atol=1e-6)
    with pytest.raises(ValueError, match="no test photo of 2000 x 28"):
        evaluators.foreign_images("embedded:photos", (2000, 28, 1))


def test_images_without_labels_are_refused(tmp_path):
    folder = tmp_path / "bare"
    write_images(folder)
    (folder / "train_labels.npy").unlink()
    bank = data.open_bank(f"npy:{folder}", progress=False)
    with pytest.raises(ValueError, match="has no labels"):
        evaluators.predict_split(predict, PARAMS, bank, "train")
