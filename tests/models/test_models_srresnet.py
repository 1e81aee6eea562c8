"""SRResNet and MSRResNet: published sizes, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_variables import filled
from small_networks import count_parameters

from vaesr.models.srresnet import PRESETS, MSRResNet, SRResNet

COUNTS = {"paper_x4": 1_549_462, "msrresnet_x4": 1_517_571}
SMALL_UPSCALERS = {
    "srresnet": SRResNet(channels=6, blocks=2),
    "srresnet_x2": SRResNet(scale=2, channels=6, blocks=1),
    "msrresnet": MSRResNet(channels=6, blocks=2),
}
STORED = {
    "msrresnet x2": MSRResNet(2, 8, 2),
    "msrresnet x3": MSRResNet(3, 8, 1),
    "msrresnet x4": MSRResNet(4, 8, 2),
}
ONE_SIZE = {"msrresnet": ("onnx", "stablehlo")}
PEERS = {
    SRResNet: ("SRResNet", ("scale", "channels", "blocks")),
    MSRResNet: ("MSRResNet", ("scale", "channels", "blocks")),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_presets_have_the_published_parameter_count(name):
    assert set(PRESETS) == set(COUNTS)
    assert count_parameters(PRESETS[name]) == COUNTS[name]


@pytest.mark.slow
def test_batch_statistics_follow_the_batches():
    model = SMALL_UPSCALERS["srresnet"]
    x = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 3)), jnp.float32)
    variables = filled(model, x)
    y, new = model.apply(variables, x, train=True, mutable=["batch_stats"])
    still = model.apply(variables, x)
    assert not np.allclose(y, still, atol=1e-3)
    for old, now in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(new["batch_stats"]), strict=True
    ):
        assert not np.allclose(old, now)
    # After many updates with one batch, the averages are its statistics.
    stats = variables["batch_stats"]
    update = jax.jit(
        lambda s: model.apply({**variables, "batch_stats": s}, x, train=True, mutable=["batch_stats"])[1]
    )
    for _ in range(150):
        stats = update(stats)["batch_stats"]
    np.testing.assert_allclose(model.apply({**variables, "batch_stats": stats}, x), y, atol=1e-3)
