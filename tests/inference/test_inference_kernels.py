"""Kernels of photos: each as if it were alone, the bicubic one where nothing is to be seen, voted for."""

import numpy as np
import pytest
from users_programs import in_its_own_process

from vaesr import data, imaging, inference
from vaesr.imaging import estimate_spread


def test_spread_of_a_scene_alike_at_all_scales():
    """Of noise whose spectrum is a power law, blurred and made small, the blur is told in every direction."""
    rng = np.random.default_rng(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(768), np.fft.fftfreq(768), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / 768)
    scene = np.stack([np.fft.ifft2(np.fft.fft2(rng.normal(size=fy.shape)) * amplitude).real] * 3, axis=-1)
    scene = (0.5 + 0.12 * scene / scene.std()).astype(np.float32)
    for scale, angle in ((2, 0.4), (2, 1.9), (3, 0.4)):
        kernel = np.asarray(
            imaging.gaussian_kernel(31, 1.8, 0.9, angle, centre=np.full(2, imaging.wanted_centre(31, scale)))
        )
        small = data.degrade(np.clip(np.round(scene * 255), 0, 255).astype(np.uint8), kernel, scale)
        found = estimate_spread(small, scale=scale).covariance
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(found, turn @ np.diag([1.8**2, 0.9**2]) @ turn.T, atol=0.45)


def test_spread_of_nothing_is_what_was_known():
    flat = np.full((80, 80, 3), 99, np.uint8)
    found = estimate_spread(flat, prior=np.array([[2.0, 0.5], [0.5, 1.0]]))
    assert found.pairs == 0
    np.testing.assert_allclose(found.covariance, [[2.0, 0.5], [0.5, 1.0]], atol=1e-6)
    with pytest.raises(ValueError, match="sides of 64 and more"):
        estimate_spread(flat[:50])


def alone_and_in_company():
    import jax
    import numpy as np

    from vaesr import data, inference

    found = data.blind_photos(data.open_bank("embedded:photos"), 3, longest=200)
    images = [photo.x_lr for photo in found]
    images[1] = images[1][:90, :80]  # of another size
    knobs = {"steps": 50, "seeds": 2, "mode": "fixed"}
    together = list(inference.estimate_kernels(images, **knobs))
    (alone,) = inference.estimate_kernels([images[1]], **knobs)
    np.testing.assert_allclose(alone.seeds, together[1].seeds, atol=1e-4 * together[1].seeds.max())
    np.testing.assert_allclose(alone.kernel, together[1].kernel, atol=1e-4 * together[1].kernel.max())
    assert jax.local_device_count() == 4  # over which they were spread


@pytest.mark.slow
def test_a_photo_alone_is_the_photo_in_company(use_cache):
    in_its_own_process(alone_and_in_company)


def found_kernels():
    import numpy as np

    from vaesr import data, imaging, inference, metrics

    found = data.blind_photos(data.open_bank("embedded:photos"), 8, longest=384)
    shares = []
    estimates = list(
        inference.estimate_kernels(
            [photo.x_lr for photo in found], seeds=1, steps=700, progress=shares.append
        )
    )
    ours = [metrics.kernel_psnr(p.kernel, e.kernel) for p, e in zip(found, estimates, strict=True)]
    plain = [metrics.kernel_psnr(p.kernel, imaging.bicubic_kernel(2)) for p in found]
    print(np.round(ours, 1), np.round(plain, 1))
    assert np.median(ours) > 45 and np.median(plain) < 35
    assert all(e.kernel.shape == (17, 17) and abs(e.kernel.sum() - 1) < 1e-9 for e in estimates)
    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.slow
def test_kernels_are_found(use_cache):
    """Within 45 dB of the true ones in the median, where the bicubic kernel is at 32."""
    in_its_own_process(found_kernels, devices=1)


def test_flat_images_get_the_bicubic_kernel():
    flat = np.full((80, 90, 3), 7, np.uint8)
    for scale, side in ((2, 17), (4, 33)):
        (found,) = inference.estimate_kernels([flat], scale=scale, seeds=3)
        assert "nothing to see" in found.note and found.kernel.shape == (side, side)
        x = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
        ours = imaging.downsample(x, found.kernel, scale)
        np.testing.assert_allclose(ours, imaging.imresize(x, 1 / scale), atol=2e-3)


def test_a_vote_leaves_out_who_disagrees():
    good = np.asarray(imaging.gaussian_kernel(13, 1.5, 1.2, 0.3, centre=np.full(2, 6.5)), np.float64)
    rng = np.random.default_rng(0)
    kernels = [good + rng.normal(0, 1e-3, good.shape) for _ in range(4)]
    wild = np.asarray(imaging.gaussian_kernel(13, 4.0, 0.6, 1.3, centre=np.full(2, 6.5)), np.float64)
    voted = inference.vote(np.stack([*kernels, wild]))
    assert voted.note == "1 of 5 trainings left out"
    without = inference.vote(np.stack(kernels))
    np.testing.assert_allclose(voted.kernel, without.kernel, atol=1e-9)
    assert without.agreement_db > voted.agreement_db
    broken = inference.vote(np.stack([np.full((13, 13), np.nan)] * 2))
    assert "no training came to a kernel" in broken.note and np.isfinite(broken.kernel).all()


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"scale": 3}, "scale must be 2 or 4, got 3"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"mode": "good"}, "mode must be one of best, fixed, compat, got 'good'"),
        (
            {"images": [np.zeros((40, 80, 3), np.uint8)]},
            "is 80x40; its blur can be told from 64x64 pixels on",
        ),
        ({"images": [np.zeros((80, 80, 1), np.uint8)]}, r"expected \[H, W, 3\] uint8"),
    ],
)
def test_bad_arguments_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        list(inference.estimate_kernels(**{"images": [np.zeros((80, 80, 3), np.uint8)], **knobs}))
