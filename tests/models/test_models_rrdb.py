"""RRDBNet: published sizes and names, receptive field, odd sizes, initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled
from small_networks import count_parameters

from vaesr.models.rrdb import PRESETS, RRDBNet

COUNTS = {"paper_x4": 16_697_987, "paper_x2": 16_703_171, "paper_x1": 16_723_907, "anime_x4": 4_467_779}
SMALL_UPSCALERS = {
    "rrdb": RRDBNet(channels=8, growth=4, blocks=1),
    "rrdb_x2": RRDBNet(scale=2, channels=8, growth=4, blocks=1),
    "rrdb_x1": RRDBNet(scale=1, channels=8, growth=4, blocks=1),
}
STORED = {
    f"rrdb x{scale}{'' if unshuffle else ' plain'}": RRDBNet(
        scale, channels=8, growth=32, blocks=2, unshuffle=unshuffle
    )
    for scale, unshuffle in ((4, True), (2, True), (1, True), (2, False), (1, False), (8, False))
}
WRITTEN = {
    "esrgan-old": (PRESETS["paper_x4"], 702, ("model.1.sub.22.RDB3.conv5.0.bias", "model.10.weight")),
    "esrgan": (PRESETS["paper_x4"], 702, ("RRDB_trunk.22.RDB3.conv5.weight", "HRconv.bias")),
    "rrdb": (PRESETS["paper_x4"], 702, ("body.22.rdb3.conv5.weight", "conv_up2.bias")),
}
ONE_SIZE = {"rrdb_x2": ("onnx",), "rrdb_x1": ("onnx",)}
PEERS = {RRDBNet: ("RRDBNet", ("scale", "channels", "growth", "blocks"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count_parameters(PRESETS[name]) == COUNTS[name]


def test_receptive_radius_of_the_published_network():
    assert PRESETS["paper_x4"].receptive_radius == 349


def test_odd_sizes_of_unshuffled_inputs_are_those_of_the_mirrored_image():
    model = SMALL_UPSCALERS["rrdb_x1"]
    x = jnp.asarray(np.random.default_rng(0).random((1, 10, 9, 3)), jnp.float32)
    variables = filled(model, x)
    padded = jnp.pad(x, ((0, 0), (0, 2), (0, 3), (0, 0)), mode="reflect")
    whole = model.apply(variables, padded)
    np.testing.assert_allclose(model.apply(variables, x), whole[:, :10, :9], atol=1e-5)


@pytest.mark.slow
def test_it_starts_near_its_skips(key):
    """Kaiming times 0.1: blocks in a row neither explode nor vanish."""
    x = jax.random.uniform(key, (1, 8, 8, 3))
    model = RRDBNet(channels=8, growth=4, blocks=8, conv_form="direct")
    y, _ = model.init_with_output(
        key, x
    )  # one by one: its few kinds of operations compile faster than all at once
    assert 1e-3 < float(jnp.abs(y).max()) < 10


def test_bad_settings_raise(key):
    with pytest.raises(ValueError, match="scale is 3"):
        RRDBNet(scale=3).init(key, jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize("name", SMALL_UPSCALERS)
def test_blocks_in_a_loop_are_the_same_network(name, key):
    model = SMALL_UPSCALERS[name].clone(blocks=3)
    x = jax.random.uniform(key, (2, 8, 12, 3))
    params = filled(model, x)
    loop = model.clone(loop=True)
    shapes = [jax.tree.map(jnp.shape, each.init(key, x)) for each in (model, loop)]
    assert shapes[0] == shapes[1]
    np.testing.assert_allclose(loop.apply(params, x), model.apply(params, x), rtol=1e-5, atol=1e-6)
    assert len(jax.jit(loop.apply).lower(params, x).as_text()) < len(
        jax.jit(model.apply).lower(params, x).as_text()
    )
