"""EDSR, with its authors' names and with BasicSR's."""

import functools

from vaesr.models.edsr import EDSR
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


def _model(state: State, *, first: str, up: str, block: str) -> EDSR:
    channels = state[first].shape[0]
    scale = scale_of(state, up, channels)
    return EDSR(scale, channels, count(state, block), residual_scale_of(channels))


def _authors_names(model: EDSR) -> Names:
    return {
        ("head",): "head.0",
        **trunk_names(model.blocks, ("body.0", "body.2"), f"body.{model.blocks}"),
        **upsampler_names(model.scale, "upsampler", "tail.0"),
        ("tail",): "tail.1",
    }


def _basicsr_names(model: EDSR) -> Names:
    return {
        ("head",): "conv_first",
        **trunk_names(model.blocks, ("conv1", "conv2"), "conv_after_body"),
        **upsampler_names(model.scale, "upsampler", "upsample"),
        ("tail",): "conv_last",
    }


_authors = functools.partial(
    _model, first="head.0.weight", up="tail.0.{}.weight", block=r"body\.(\d+)\.body\.0\."
)
_basicsr = functools.partial(
    _model, first="conv_first.weight", up="upsample.{}.weight", block=r"body\.(\d+)\.conv1\."
)
FAMILIES = {
    "edsr": Family(
        "EDSR", EDSR, ("body.0.body.0.weight", "tail.0.0.weight"), _authors, _authors_names, shifts=True
    ),
    "edsr-basicsr": Family(
        "BasicSR's EDSR", EDSR, ("body.0.conv1.weight", "conv_after_body.weight"), _basicsr, _basicsr_names,
        wrapper="params",
    ),
}  # fmt: skip
