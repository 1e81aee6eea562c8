"""Pairs with a degradation of one's own: what the photo's patch is, whose the random words are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaesr import data, evaluators
from vaesr.imaging import crappify, imresize, quantise, to_float
from vaesr.imaging.crappify import QUALITIES


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return data.open_bank("embedded:photos", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def identity(x_hr, words):
    return x_hr


def batch_of(sampler, step=3, count=4):
    draw = jax.device_get(
        sampler.draw(jax.random.key(5), jnp.int32(step), jnp.arange(count, dtype=jnp.int32))
    )
    return sampler.gather_host(draw), draw


@pytest.mark.slow
@pytest.mark.parametrize("shrink", [1, 2, 3])
def test_patches_are_those_of_the_photos_made_smaller(bank, shrink):
    sampler = data.DegradedSampler(
        bank, "train", 4, scale=2, patch=12, degradation=identity, shrink=shrink, augment=False
    )
    raw, draw = batch_of(sampler)
    pairs = sampler.finish(jnp.asarray(raw), draw)
    photos = bank.split("train")
    for i, x_hr in enumerate(np.asarray(pairs["x_hr"])):
        whole = to_float(jnp.asarray(bank.image(photos[draw["photo"][i]])))
        height, width = (n // shrink * shrink for n in whole.shape[:2])
        small = quantise(imresize(whole[:height, :width], 1 / shrink)) if shrink > 1 else whole
        top, left = draw["top"][i] // shrink + 2, draw["left"][i] // shrink + 2  # a margin of two
        expected = np.asarray(small)[top : top + 24, left : left + 24]
        # An 8-bit step where the two sums round to either side.
        np.testing.assert_allclose(x_hr, expected, atol=1.01 / 255)
        assert (np.abs(x_hr - expected) < 1e-6).mean() > 0.99
    np.testing.assert_array_equal(pairs["x_lr"], pairs["x_hr"])


def test_device_and_host_give_the_same_pairs_and_every_example_its_own_words(bank):
    sampler = data.DegradedSampler(
        bank, "train", 4, scale=2, patch=8, degradation=data.crappification(2), shrink=2
    )
    raw, draw = batch_of(sampler)
    on_host = jax.jit(sampler.finish)(jnp.asarray(raw), draw)
    on_device = jax.jit(sampler)(
        sampler.source(), key=jax.random.key(5), step=jnp.int32(3), position=jnp.arange(4, dtype=jnp.int32)
    )
    jax.tree.map(np.testing.assert_array_equal, on_host, on_device)
    assert on_host["x_lr"].shape == (4, 8, 8, 3) and on_host["x_hr"].shape == (4, 16, 16, 3)
    assert len({tuple(words) for words in draw["words"]}) == 4
    other = batch_of(sampler, step=4)[1]
    assert not np.any(other["words"] == draw["words"])


@pytest.mark.slow
def test_crappification_is_crappify_of_the_words():
    x_hr = jnp.asarray(np.random.default_rng(0).random((3, 32, 48, 3)), jnp.float32)
    words = jnp.asarray(np.random.default_rng(1).integers(0, 2**32, (3, 4), np.uint32))
    low, high = QUALITIES
    numbers = np.asarray(words, np.int64)
    quality, top, left = low + numbers[:, 0] % (high - low + 1), numbers[:, 1] % 9, numbers[:, 2] % 13
    expected = crappify(x_hr, quality, top, left, scale=2)
    np.testing.assert_array_equal(data.crappification(2)(x_hr, words), expected)
    clean = data.crappification(2, text=False)(x_hr, words)
    np.testing.assert_array_equal(clean, crappify(x_hr, quality, top, left, scale=2, text=False))
    assert np.abs(clean - expected).max() > 0.1


def test_fading_leaves_the_luma():
    x_hr = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 3)), jnp.float32)
    grey = np.asarray(data.fading(x_hr, jnp.zeros((2, 4), jnp.uint32)))
    # MATLAB's rgb2gray: the first row of the inverse of its NTSC matrix.
    luma = np.asarray(x_hr) @ np.array([0.298936021293776, 0.587043074451121, 0.114020904255103])
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, -1), atol=1e-6)


def test_measured_photos_are_made_smaller_too(bank):
    pairs = list(evaluators.photo_pairs(bank, "test", scale=2, longest=64, shrink=2))
    assert [pair.hr.shape for pair in pairs] == [(64, 64, 3)] * len(pairs)
    photo = np.asarray(bank.image(bank.split("test")[0]))
    top, left = ((n - 128) // 2 for n in photo.shape[:2])
    expected = quantise(imresize(to_float(jnp.asarray(photo[top : top + 128, left : left + 128])), 0.5))
    np.testing.assert_allclose(pairs[0].hr, expected, atol=1e-6)
    with pytest.raises(ValueError, match="shrink must be an integer of at least 1, got 0"):
        evaluators.photo_pairs(bank, "test", scale=2, longest=64, shrink=0)
