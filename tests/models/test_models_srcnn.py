"""SRCNN: published sizes; it changes the luma alone."""

import jax
import numpy as np
import pytest
from filled_variables import filled
from small_networks import count_parameters

from vaesr.imaging import imresize, rgb_to_ycbcr
from vaesr.models.srcnn import PRESETS, SRCNN

COUNTS = {"9-1-5": 8_129, "9-3-5": 24_513, "9-5-5": 57_281}
SMALL_UPSCALERS = {"srcnn": SRCNN(scale=3, kernels=(5, 3, 3), widths=(6, 4))}
ONE_SIZE = {"srcnn": ("onnx", "stablehlo")}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count_parameters(PRESETS[name]) == COUNTS[name]


def test_it_changes_luma_alone(key):
    model = SMALL_UPSCALERS["srcnn"]
    x = jax.random.uniform(key, (1, 6, 5, 3), minval=0.2, maxval=0.8)
    y = rgb_to_ycbcr(model.apply(filled(model, x), x))
    np.testing.assert_allclose(y[..., 1:], imresize(rgb_to_ycbcr(x), 3)[..., 1:], atol=1e-5)
