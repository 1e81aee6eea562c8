"""Zero-shot upscaling: each photo as if it were alone, better than bicubic, projected back."""

import numpy as np
import pytest
from users_programs import in_its_own_process

from vaesr import imaging, inference


def test_back_projection_approaches_the_small_image():
    rng = np.random.default_rng(0)
    truth = rng.random((48, 60, 3)).astype(np.float32)
    kernel = imaging.bicubic_kernel(2)
    small = np.asarray(imaging.downsample(truth, kernel, 2))
    enlarged = np.clip(np.asarray(imaging.imresize(small, 2)), 0, 1)
    errors = []
    for times in range(6):
        back = inference.back_project(enlarged, small, kernel, 2, times)
        errors.append(float(np.abs(np.asarray(imaging.downsample(back, kernel, 2)) - small).mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4


def alone_and_in_company():
    import numpy as np

    from vaesr import data, inference

    found = data.blind_photos(data.open_bank("embedded:photos"), 3, longest=160)
    images = [found[0].x_lr, found[1].x_lr[:50, :64], found[2].x_lr]
    kernels = [photo.kernel for photo in found]
    together = list(inference.upscale_zero_shot(images, kernels=kernels, steps=50))
    (alone,) = inference.upscale_zero_shot([images[1]], kernels=[kernels[1]], steps=50)
    (thrice,) = inference.upscale_zero_shot([images[1][:40, :40]], scale=3, steps=2)
    assert thrice.pixels.shape == (120, 120, 3)
    assert alone.pixels.shape == (100, 128, 3)
    np.testing.assert_allclose(alone.pixels, together[1].pixels, atol=1e-4)


@pytest.mark.slow
def test_a_photo_alone_is_the_photo_in_company(use_cache):
    in_its_own_process(alone_and_in_company)


def a_weave():
    """A texture that repeats: what ZSSR is best at."""
    import numpy as np

    from vaesr import data, imaging, inference, metrics

    def psnr(truth, image):
        protocol = metrics.SR_BENCHMARK(2)
        return float(metrics.psnr(truth[None].astype(np.float32), image[None], protocol=protocol)[0])

    y, x = np.mgrid[:96, :96]
    plane = 0.5 + 0.25 * np.sign(np.sin(2 * np.pi * x / 7.3)) + 0.2 * np.sin(2 * np.pi * (x + 2 * y) / 5.1)
    truth = np.stack([plane, 0.8 * plane, 1 - plane], axis=-1)
    kernel = imaging.random_kernel(4)
    small = data.degrade(np.round(truth * 255).astype(np.uint8), kernel, 2)
    shares = []
    (result,) = inference.upscale_zero_shot([small], kernels=[kernel], steps=200, progress=shares.append)
    bicubic = np.clip(np.asarray(imaging.imresize(small.astype(np.float32) / 255, 2)), 0, 1)
    assert psnr(truth, result.pixels) > psnr(truth, bicubic) + 2, (
        psnr(truth, result.pixels),
        psnr(truth, bicubic),
    )
    assert shares == sorted(shares) and 0 < result.steps <= 200


@pytest.mark.slow
def test_a_periodic_texture_is_better_than_bicubic():
    in_its_own_process(a_weave, devices=1)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"scale": 5}, "scale must be 2, 3 or 4, got 5"),
        ({"kernels": []}, "kernels must be as many as images, got 0 for 1"),
        ({"manner": "bad"}, "manner must be one of ideal, kernel, real, got 'bad'"),
        ({"noise": 2.0}, "noise must be from 0 to less than 1"),
        ({"images": [np.zeros((20, 20), np.uint8)]}, r"images\[0\] has shape \(20, 20\)"),
        ({"images": [np.zeros((20, 20, 3), np.int32)]}, r"images\[0\] is int32"),
        ({"kernels": [np.zeros((5, 5))]}, r"kernel must be \[K, L\], finite"),
    ],
)
def test_bad_arguments_are_named(knobs, words):
    with pytest.raises(ValueError, match=words):
        list(inference.upscale_zero_shot(**{"images": [np.zeros((20, 20, 3), np.uint8)], **knobs}))
