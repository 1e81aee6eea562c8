"""The published weights beside ncnn, the program that they were made for, on a crop of a photo."""

import jax
import numpy as np
import pytest

from vaesr.inference import load_network
from vaesr.pretrained import PUBLISHED


def through_ncnn(files: str, image: np.ndarray) -> np.ndarray:
    """What ncnn makes of `[H, W, 3]` in [0, 1], in float32 throughout."""
    ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "winograd_convolution"):
        setattr(net.opt, f"use_{name}", False)
    assert net.load_param(f"{files}.param") == 0 and net.load_model(f"{files}.bin") == 0
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(planes).clone())
    return np.array(extractor.extract("output")[1]).transpose(1, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_equal_ncnn(name: str) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    package = PUBLISHED[name].package.replace("-", "_")
    module = pytest.importorskip(package, reason="vaesr[pretrained] is not installed")
    image = data.coffee()[100:132, 200:240].astype(np.float32) / 255
    theirs = through_ncnn(f"{module.__path__[0]}/models/{PUBLISHED[name].stem}", image)
    run = load_network(name).precise()
    ours = np.asarray(jax.device_get(run.apply(image[None])))[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # RGB: with red and blue swapped it is another picture.
    swapped = np.asarray(run.apply(image[None, :, :, ::-1]))[0, :, :, ::-1]
    assert np.abs(swapped - theirs).max() > 0.05
