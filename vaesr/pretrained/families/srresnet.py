"""BasicSR's MSRResNet."""

import math

from vaesr.models.srresnet import MSRResNet
from vaesr.pretrained.naming import Family, Names, State, count, steps_of


def _model(state: State) -> MSRResNet:
    channels, scale = state["conv_first.weight"].shape[0], 1
    for i in range(1, 1 + max(0, count(state, r"upconv(\d+)\.weight") - 1)):
        scale *= math.isqrt(state[f"upconv{i}.weight"].shape[0] // channels)
    return MSRResNet(scale, channels, count(state, r"body\.(\d+)\.conv1\."))


def _names(model: MSRResNet) -> Names:
    return {
        ("conv_first",): "conv_first",
        **{(f"body_{i}", f"conv_{k}"): f"body.{i}.conv{k + 1}" for i in range(model.blocks) for k in (0, 1)},
        **{(f"upconv_{i}",): f"upconv{i + 1}" for i in range(steps_of(model.scale))},
        ("conv_hr",): "conv_hr",
        ("conv_last",): "conv_last",
    }


FAMILIES = {
    "msrresnet": Family(
        "BasicSR's MSRResNet", MSRResNet, ("body.0.conv1.weight", "upconv1.weight"), _model, _names,
        wrapper="params",
    )
}  # fmt: skip
