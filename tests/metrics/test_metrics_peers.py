"""Parity with piq, pytorch-msssim and scikit-image where their definitions are ours; how far else."""

import jax.numpy as jnp
import numpy as np
import official
import pytest

import vaesr.metrics as m
from benchmarks.peers import image_metrics

# Ours, and how far piq is from it on images of 256 pixels: rounding, unless there is a reason.
PIQ = {
    "psnr": (m.psnr, 1e-4),
    "ssim": (m.ssim, 2e-5),
    "ms_ssim": (lambda x, y: m.ms_ssim(x, y, protocol=m.RGB), 2e-5),
    "iw_ssim": (m.iw_ssim, 2e-5),
    # The population's deviation.
    "gmsd": (m.gmsd, 5e-4),
    "fsim": (m.fsim, 5e-5),
    "fsimc": (m.fsimc, 5e-5),
    "vsi": (m.vsi, 1e-5),
}


def pairs():
    for name in official.NAMES:
        reference = official.image(name, "ref")
        batch = jnp.concatenate([official.image(name, d) for d in official.DISTORTIONS])
        yield name, jnp.broadcast_to(reference, batch.shape), batch


def colours(x):
    return np.broadcast_to(np.asarray(x), (*x.shape[:3], 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PIQ))
def test_piq(name):
    reason = image_metrics.missing("piq")
    if reason:
        pytest.skip(reason)
    import torch

    theirs, (ours, apart) = image_metrics.piq_metrics()[name], PIQ[name]
    # In float64: what piq loses in float32 is not ours.
    as_torch = lambda x: torch.from_numpy(colours(x).transpose(0, 3, 1, 2).copy()).double()
    for picture, x, y in pairs():
        expected = theirs(as_torch(x), as_torch(y)).numpy().reshape(-1)
        np.testing.assert_allclose(ours(x, y), expected, atol=apart, err_msg=picture)


@pytest.mark.slow
def test_pytorch_msssim():
    theirs = pytest.importorskip("pytorch_msssim")
    import torch

    as_torch = lambda x: torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy()).double()
    for picture, x, y in pairs():
        a, b = as_torch(x), as_torch(y)
        found = theirs.ssim(a, b, data_range=1, size_average=False).numpy()
        np.testing.assert_allclose(m.ssim(x, y), found, atol=2e-5, err_msg=picture)
        found = theirs.ms_ssim(a, b, data_range=1, size_average=False).numpy()
        np.testing.assert_allclose(m.ms_ssim(x, y, protocol=m.RGB), found, atol=2e-5, err_msg=picture)


def test_scikit_image():
    if image_metrics.missing("skimage"):
        pytest.skip("scikit-image not installed")
    theirs = image_metrics.skimage_metrics()
    for picture, x, y in pairs():
        for name, ours in (("psnr", m.psnr), ("ssim", m.ssim)):
            found = image_metrics.over_batch(theirs[name], np.asarray(x), np.asarray(y))
            np.testing.assert_allclose(ours(x, y), found, atol=2e-5, err_msg=picture)
