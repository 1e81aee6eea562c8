"""Real-ESRGAN's SRVGGNetCompact."""

import math

from vaesr.models.srvgg import SRVGGNetCompact
from vaesr.pretrained.naming import Family, Names, State, count


def _model(state: State) -> SRVGGNetCompact:
    last = count(state, r"body\.(\d+)\.weight") - 1
    outputs = state[f"body.{last}.weight"].shape[0]
    scale = math.isqrt(outputs // 3)
    if last % 2 or last < 2 or scale**2 * 3 != outputs:
        raise ValueError(f"its last layer, body.{last}, makes {outputs} channels")
    return SRVGGNetCompact(scale, state["body.0.weight"].shape[0], last // 2 - 1)


def _names(model: SRVGGNetCompact) -> Names:
    names: Names = {(f"conv_{i}",): f"body.{2 * i}" for i in range(model.convs + 2)}
    return names | {(f"prelu_{i}",): f"body.{2 * i + 1}" for i in range(model.convs + 1)}


FAMILIES = {
    "srvgg": Family(
        "SRVGGNetCompact", SRVGGNetCompact, ("body.0.weight", "body.1.weight"), _model, _names,
        wrapper="params",
    )
}  # fmt: skip
