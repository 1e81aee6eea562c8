"""MDSR, with its authors' names."""

from vaesr.models.mdsr import MDSR
from vaesr.pretrained.naming import (
    Family,
    Names,
    State,
    count,
    residual_scale_of,
    scale_of,
    trunk_names,
    upsampler_names,
)


def _model(state: State) -> MDSR:
    channels = state["head.0.weight"].shape[0]
    scales = tuple(
        scale_of(state, f"upsample.{n}.{{}}.weight", channels)
        for n in range(count(state, r"pre_process\.(\d+)\."))
    )
    return MDSR(scales, channels, count(state, r"body\.(\d+)\.body\.0\."), residual_scale_of(channels))


def _names(model: MDSR) -> Names:
    names: Names = {("head",): "head.0"}
    for n, scale in enumerate(model.scales):
        names |= {
            (f"pre_process_x{scale}_{i}", f"conv_{k}"): f"pre_process.{n}.{i}.body.{2 * k}"
            for i in (0, 1)
            for k in (0, 1)
        }
        names |= upsampler_names(scale, f"upsampler_x{scale}", f"upsample.{n}")
    return {
        **names,
        **trunk_names(model.blocks, ("body.0", "body.2"), f"body.{model.blocks}"),
        ("tail",): "tail.0",
    }


FAMILIES = {"mdsr": Family("MDSR", MDSR, ("pre_process.0.0.body.0.weight",), _model, _names, shifts=True)}
