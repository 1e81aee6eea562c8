"""RCAN: published sizes and names; it sees the whole image."""

import jax.numpy as jnp
import pytest
from small_networks import count_parameters

from experiments import rcan as experiment
from vaesr.models.rcan import PRESETS, RCAN

COUNTS = {"paper_x2": 15_444_643, "paper_x3": 15_629_283, "paper_x4": 15_592_355}
SMALL_UPSCALERS = {
    "rcan": RCAN(scale=2, channels=8, groups=2, blocks=2, reduction=4),
    "rcan_x3": RCAN(scale=3, channels=4, groups=1, blocks=1, reduction=2),
}
STORED = {"rcan x2": RCAN(2, 16, 2, 3, 4), "rcan x4": RCAN(4, 16, 2, 3, 4)}
WRITTEN = {
    "rcan": (PRESETS["paper_x2"], 1632, ("body.9.body.19.body.3.conv_du.2.bias", "body.10.weight")),
}
ONE_SIZE = {"rcan": ("onnx",), "rcan_x3": ("onnx",)}
PEERS = {RCAN: ("RCAN", ("scale", "channels", "groups", "blocks", "reduction"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count_parameters(PRESETS[name]) == COUNTS[name]


def test_the_paper_preset_is_the_published_network():
    assert experiment.PRESETS["paper"].model == PRESETS["paper_x2"]


def test_it_has_no_receptive_radius():
    assert PRESETS["paper_x4"].receptive_radius is None


def test_bad_settings_raise(key):
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="scale is 5"):
        RCAN(scale=5).init(key, x)
    with pytest.raises(ValueError, match="reduction is 100"):
        RCAN(reduction=100).init(key, x)
