"""Crops and views of one image: where they are taken, by whom, and that no company changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vaesr import data
from vaesr.data.fathers import draw_views, gather_views
from vaesr.data.self_patches import _box, _gradient_map

RNG = np.random.default_rng(0)


def scene(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90, np.uint8)
    image[height // 2 :, width // 2 :] = rng.integers(0, 255, (height - height // 2, width - width // 2, 3))
    return image


def test_boxes_are_scipys():
    plane = RNG.random((30, 41))
    for side in (5, 13, 32):
        theirs = scipy.signal.convolve2d(plane, np.ones((side, side)), "same") / side**2
        np.testing.assert_allclose(_box(plane, side), theirs, atol=1e-12)


def test_gradient_maps_show_the_largest_gradients_alone():
    grey = np.zeros((60, 80))
    grey[:, 40:] = 1
    weight = _gradient_map(grey)
    assert weight[30, 36:44].max() > 0 and weight[:, :30].max() == 0 and weight[:, 50:].max() == 0


def test_crops_are_of_each_trainings_image_where_something_is_to_be_seen():
    images = [scene(150, 170), scene(200, 120, 1)]
    sampler = data.SelfPatchSampler(images, [0, 0, 1])
    source = sampler.source()
    tops = []
    for step in range(20):
        how = {"key": jax.random.key(1), "step": jnp.int32(step), "position": jnp.arange(3)}
        batch = sampler(source, **how)
        assert batch["x_g"].shape == (3, 1, 64, 64, 3) and batch["x_d"].shape == (3, 1, 26, 26, 3)
        tops.append(np.asarray(batch["x_d"]).std((1, 2, 3, 4)))
        for name, side in (("x_g", 64), ("x_d", 26)):
            for crop, owner in zip(np.asarray(batch[name])[:, 0], (0, 0, 1), strict=True):
                inner = images[owner][10:-10, 10:-10] / np.float32(255)
                windows = np.lib.stride_tricks.sliding_window_view(inner[..., 0], (side, side))[::2, ::2]
                assert (np.abs(windows - crop[..., 0]).max((-1, -2)) < 1e-6).any()
    assert np.array(tops).mean() > 0.1  # the flat three quarters of the images are seldom taken


def test_host_and_device_give_the_same_crops():
    sampler = data.SelfPatchSampler([scene(150, 170), scene(90, 100)], [1, 0])
    draw = sampler.draw(jax.random.key(0), jnp.int32(3), jnp.arange(2))
    ours = sampler.gather(sampler.source(), draw)
    theirs = sampler.gather_host({name: np.asarray(value) for name, value in draw.items()})
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_flat_images_are_known_and_small_ones_refused():
    flat = np.full((80, 90, 3), 7, np.uint8)
    assert not data.has_gradients(flat) and data.has_gradients(scene(80, 90))
    data.SelfPatchSampler([flat], [0])
    with pytest.raises(ValueError, match=r"\(50, 80, 3\).* sides of at least 64"):
        data.SelfPatchSampler([scene(50, 80)], [0])


def views(kind, image, count=60, side=32, scales=(1.0,), sources=None):
    sampler = data.FatherSampler([sources or [image]] * count, scales=scales, side=side, views=kind)
    draw = draw_views(jax.random.key(0), jnp.int32(0), jnp.arange(count)) | {"training": jnp.arange(count)}
    return np.asarray(gather_views(sampler.source(), draw, scales=scales, side=side, views=kind))[:, 0]


def test_views_as_they_are_are_crops():
    image = RNG.random((50, 60, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (32, 32))
    for view in views(data.Views(as_is=1.0, turned=0.0), image):
        assert (np.abs(windows - view[..., 0]).max((-1, -2)) < 1e-6).any()
    turned = views(data.Views(as_is=0.0, turned=1.0), image)
    kinds = set()
    for view in turned:
        every = [np.rot90(flip, k) for flip in (view, view[:, ::-1]) for k in range(4)]
        found = [
            i for i, each in enumerate(every) if (np.abs(windows - each[..., 0]).max((-1, -2)) < 1e-6).any()
        ]
        assert found
        kinds.update(found)
    assert len(kinds) == 8


def test_affine_views_are_smaller_and_turned_as_allowed():
    y, x = np.mgrid[:128, :128] / np.float32(128)
    image = np.stack([x, y, np.ones_like(x)], axis=-1)
    still = data.Views(as_is=0.0, turned=0.0, turns=False, stretch=0.0, shear=0.0)
    for view in views(still, image):
        slope = np.diff(view[8:24, 8:24, 0], axis=1)
        assert 1 / 128 * 0.97 < slope.mean() < 2 / 128 * 1.03
        assert slope.std() < 1e-3  # Keys' polynomial with a = -0.75 waves a little
        assert np.abs(np.diff(view[8:24, 8:24, 0], axis=0)).max() < 1e-4
    free = views(data.Views(as_is=0.0, turned=0.0), image)
    across = np.array([np.diff(view[12:20, 12:20, 0], axis=1).mean() for view in free])
    assert (across > 0).any() and (across < 0).any()


def test_views_are_of_the_smallest_source_that_is_larger():
    sources = [np.full((64 * s, 64 * s, 3), level, np.float32) for s, level in ((1, 0.2), (2, 0.8))]
    kind = data.Views(as_is=0.0, turned=0.0, turns=False, stretch=0.0, shear=0.0, least_scale=0.5)
    levels = views(kind, None, side=16, scales=(1.0, 2.0), sources=sources)[:, 8, 8, 0]
    assert {round(float(level), 1) for level in levels} == {0.2, 0.8}
    assert 0.2 < (levels > 0.5).mean() < 0.95


def test_blind_photos_are_degraded_as_told(use_cache):
    bank = data.open_bank("embedded:photos")
    photos = data.blind_photos(bank, 3, longest=256)
    assert [photo.name for photo in photos] == ["astronaut", "chelsea", "coffee"]
    for photo in photos:
        assert photo.x_hr.shape == (256, 256, 3) and photo.x_lr.shape == (128, 128, 3)
        np.testing.assert_array_equal(photo.x_lr, data.degrade(photo.x_hr, photo.kernel, 2))
    again = data.blind_photos(bank, 1, longest=256)[0]
    np.testing.assert_array_equal(again.kernel, photos[0].kernel)
    assert not np.array_equal(data.blind_photos(bank, 1, longest=256, seed=1)[0].kernel, again.kernel)
    with pytest.raises(ValueError, match="photos in colour of 128x128 and more, not 100"):
        data.blind_photos(bank, 100)
