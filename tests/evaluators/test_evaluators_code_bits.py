"""Bits of codes and pixels against closed forms; PCA and water-filling against theirs."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators
from vaesr.data.bank import Bank


def bank_of(pixels):
    """Images of one size; the first half for training, then validation and test."""
    count, height, width, channels = pixels.shape
    cut = np.split(np.arange(count, dtype=np.int32), [count // 2, 3 * count // 4])
    side = np.full(count, height), np.full(count, width)
    return Bank(
        pixels.reshape(-1, width, channels), np.arange(count) * height, *side,
        dict(zip(("train", "validation", "test"), cut, strict=True)), None, [str(i) for i in range(count)],
        [], "npy:x", None,
    )  # fmt: skip


def test_a_prior_that_knows_nothing_spends_log_k_bits():
    bits = evaluators.CodeBits(lambda params, codes, label, condition: jnp.zeros((*codes.shape, 8)) + params)
    arrays = {"codes": np.random.default_rng(0).integers(0, 8, (601, 2, 3)).astype(np.uint8)}
    assert bits.per_code(0.0, arrays).mean() == pytest.approx(3.0, abs=1e-6)
    assert bits.per_code(0.0, arrays, limit=7) == pytest.approx(3.0, abs=1e-6)


def test_a_prior_sees_labels_and_the_maps_above():
    def apply(params, codes, label, condition):
        assert label.shape == (codes.shape[0],) and [c.shape[1:] for c in condition] == [(1, 1), (2, 2)]
        sure = jnp.where(label[:, None, None, None] == 1, 50.0, 0.0)
        return sure * jnp.eye(4)[codes]

    arrays = {
        "codes": np.zeros((4, 2, 2), np.uint8), "label": np.array([1, 0, 0, 1]),
        "condition_1": np.zeros((4, 2, 2), np.uint8), "condition_0": np.zeros((4, 1, 1), np.uint8),
    }  # fmt: skip
    assert evaluators.CodeBits(apply).per_code(None, arrays) == pytest.approx([0.0, 2.0, 2.0, 0.0], abs=1e-6)


def test_the_unigram_code_length_is_the_cross_entropy():
    train, test = np.array([0, 0, 1, 2]), np.array([[0, 3], [0, 0]])
    # Counts with one added: 3, 2, 2, 1 of 8.
    found = evaluators.unigram_bits(train, 4)(test)
    assert found == pytest.approx([0.5 * (math.log2(8 / 3) + 3), math.log2(8 / 3)])


def test_pixel_bits_of_known_noise():
    rng = np.random.default_rng(3)
    sigma = 10.0  # grey levels
    noise = np.rint(np.clip(128 + sigma * rng.normal(size=(400, 6, 6, 1)), 0, 255)).astype(np.uint8)
    found = evaluators.pixel_bits(bank_of(noise), lambda images: jnp.full(images.shape, 128 / 255))
    # The entropy of a Gaussian of that scale, cut into bins of one level.
    assert found.shape == (100,) and found.mean() / 36 == pytest.approx(
        0.5 * math.log2(2 * math.pi * math.e * sigma**2), abs=0.03
    )


def test_water_filling_is_the_closed_form():
    # Far below every variance all components share one level: D = n (prod var)^(1/n) 2^(-2 R / n).
    variances = np.array([4.0, 1.0, 0.25])
    assert evaluators.water_filling(variances, 30.0) == pytest.approx(3 * 2 ** (-2 * 30 / 3), rel=1e-6)
    # Only the first component is worth bits: 0.5 log2(4 / level) = 0.5 gives level 2.
    assert evaluators.water_filling(variances, 0.5) == pytest.approx(2.0 + 1.25, rel=1e-6)
    assert evaluators.water_filling(variances, 0.0) == pytest.approx(5.25, rel=1e-6)


def test_pca_of_images_with_two_directions():
    rng = np.random.default_rng(4)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0][:, :2].T
    x = 0.5 + (rng.normal(size=(4000, 2)) * [0.4, 0.1]) @ directions
    bank = bank_of(np.rint(255 * x).clip(0, 255).astype(np.uint8).reshape(-1, 4, 4, 1))
    one, two = evaluators.pca_errors(bank, 8), evaluators.pca_errors(bank, 16)
    assert (one["pca_components"], two["pca_components"]) == (1, 2)
    assert one["pca_mse"] == pytest.approx(0.01 / 16, rel=0.1)
    # Of squares of a Gaussian, over the bank's 1000 test images.
    assert one["pca_mse_se"] == pytest.approx(math.sqrt(2 / 1000) * one["pca_mse"], rel=0.2)
    assert two["pca_mse"] < 1e-5  # rounding to 8 bits
    assert evaluators.pca_errors(bank, 0.001)["pca_waterfilling_mse"] == pytest.approx(0.17 / 16, rel=0.1)
    with pytest.raises(ValueError, match="bits must be above 0, got 0"):
        evaluators.pca_errors(bank, 0)


def test_level_names_and_code_statistics():
    assert evaluators.level_names(1) == ("codes",) and evaluators.level_names(2) == ("top", "bottom")
    assert evaluators.level_names(3) == ("top", "middle", "bottom")
    assert evaluators.level_names(4) == ("top", "middle1", "middle2", "bottom")
    found = evaluators.code_statistics([np.array([0, 0, 1, 1]), np.arange(4)], 4)
    assert found == pytest.approx(
        {"perplexity_top": 2, "usage_top_percent": 50, "perplexity_bottom": 4, "usage_bottom_percent": 100}
    )


def test_encoding_keeps_order_labels_and_splits():
    pixels = np.arange(600, dtype=np.int32).astype(np.uint8).reshape(600, 1, 1, 1).repeat(2, 1)
    bank = bank_of(pixels)
    found = evaluators.encode_splits(bank, lambda images: (np.rint(images[..., 0] * 255).astype(int),), 256)
    assert set(found) == {"train", "validation", "test"} and found["train"]["codes_0"].dtype == np.uint8
    for split, arrays in found.items():
        np.testing.assert_array_equal(arrays["index"], bank.split(split))
        np.testing.assert_array_equal(arrays["codes_0"][:, 0, 0], pixels[bank.split(split), 0, 0, 0])
    assert set(data.evaluation_batches(bank, "test", 2).__next__()) == {"image", "index", "mask"}
