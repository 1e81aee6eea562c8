"""KL of each group of latents over a split, and the training images nearest to others."""

import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators, reports


@pytest.fixture
def bank(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 300), ("validation", 7), ("test", 5)):
        np.save(tmp_path / f"{split}.npy", rng.integers(0, 255, (count, 4, 4, 1), np.uint8))
    return data.open_bank(f"npy:{tmp_path}", cache_dir=tmp_path / "cache", progress=False)


def test_group_kls_are_means_over_the_split(bank):
    def draw(weights, images, keys, indices):
        means = images.mean(axis=(1, 2, 3))
        return None, None, jnp.stack([means, weights * means], axis=1)[None]

    measure = evaluators.compile_group_kl(draw, binarisation="none")
    found = evaluators.group_kls(bank, measure, jnp.float32(0.01), "validation")
    mean = bank.pixels[bank.split("validation")].mean() / 255
    np.testing.assert_allclose(found, [mean, 0.01 * mean], rtol=1e-5)
    assert evaluators.count_active(found) == 1


def test_nearest_are_those_of_all_distances(bank):
    train = bank.pixels[bank.split("train")].astype(np.float64) / 255
    queries = np.concatenate([train[17:18], np.random.default_rng(1).random((3, 4, 4, 1))]).astype(np.float32)
    found, distances = evaluators.nearest(queries, bank, count=3)
    every = np.sqrt(np.square(queries[:, None] - train[None]).sum(axis=(2, 3, 4)))
    np.testing.assert_allclose(distances[1:], np.sort(every, axis=1)[1:, :3], rtol=1e-4)
    np.testing.assert_allclose(found, train[np.argsort(every, axis=1)[:, :3]], atol=1e-6)
    assert distances[0, 0] < 2e-3  # a copy is found
    # By features: only the first row counts.
    by_row, _ = evaluators.nearest(queries, bank, features=lambda x: x[:, :1], count=1)
    rows = np.square(queries[:, None, :1] - train[None, :, :1]).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(by_row[:, 0], train[rows.argmin(axis=1)], atol=1e-6)


def test_pictures(bank, tmp_path):
    evaluators.save_group_figure(tmp_path / "g.png", np.array([1.0, 0.0, 2.0]), [4, 4, 8], of_images="images")
    samples = np.random.default_rng(1).random((2, 4, 4, 1)).astype(np.float32)
    evaluators.save_neighbours(tmp_path / "n.png", samples, bank, lambda x: x, what="pixels")
    assert all((tmp_path / name).stat().st_size > 500 for name in ("g.png", "n.png"))
    with pytest.raises(ValueError, match="kl_nats and scales must be of one length"):
        reports.group_activity(np.ones(2), ["8x8"])


def test_distances_of_features(bank):
    """Of the images themselves the Frechet distance is 0, and the kernel's, which is unbiased, about that."""
    embed = lambda images: images.reshape(images.shape[0], -1)[:, :5]
    own = bank.pixels[bank.split("train")].astype(np.float32) / 255
    found = evaluators.feature_distances([own[:200], own[200:]], bank, "train", embed)
    assert found["frechet_distance"] < 1e-5 and abs(found["kernel_distance"]) < 0.01
    darker = evaluators.feature_distances([0.5 * own], bank, "train", embed)
    assert darker["frechet_distance"] > 0.3 and darker["kernel_distance"] > 0.05
    assert evaluators.feature_distances([own[:1]], bank, "train", embed) == {}
