"""RCAN, with its authors' names and with BasicSR's."""

import functools

from vaesr.models.rcan import RCAN
from vaesr.pretrained.naming import Family, Names, State, count, scale_of, upsampler_names


def _model(state: State, *, first: str, up: str, group: str, block: str, down: str) -> RCAN:
    channels = state[f"{first}.weight"].shape[0]
    return RCAN(
        scale_of(state, up, channels), channels, groups=count(state, group), blocks=count(state, block),
        reduction=channels // state[f"{down}.weight"].shape[0],
    )  # fmt: skip


def _names(
    model: RCAN, *, block: str, convs: tuple[str, str], attend: tuple[str, str], out: str, rest: Names
) -> Names:
    names: Names = {}
    for g in range(model.groups):
        for b in range(model.blocks):
            prefix, place = block.format(g, b), (f"group_{g}", f"block_{b}")
            names |= {(*place, f"conv_{k}"): f"{prefix}.{convs[k]}" for k in (0, 1)}
            names |= {(*place, "attend_down"): f"{prefix}.{attend[0]}"}
            names |= {(*place, "attend_up"): f"{prefix}.{attend[1]}"}
        names[f"group_{g}", "out"] = out.format(g)
    return names | rest


def _authors_names(model: RCAN) -> Names:
    return _names(
        model, block="body.{}.body.{}.body", convs=("0", "2"), attend=("3.conv_du.0", "3.conv_du.2"),
        out=f"body.{{}}.body.{model.blocks}",
        rest={
            ("head",): "head.0", ("body_out",): f"body.{model.groups}",
            **upsampler_names(model.scale, "upsampler", "tail.0"), ("tail",): "tail.1",
        },
    )  # fmt: skip


def _basicsr_names(model: RCAN) -> Names:
    return _names(
        model, block="body.{}.residual_group.{}.rcab", convs=("0", "2"),
        attend=("3.attention.1", "3.attention.3"), out="body.{}.conv",
        rest={
            ("head",): "conv_first", ("body_out",): "conv_after_body",
            **upsampler_names(model.scale, "upsampler", "upsample"), ("tail",): "conv_last",
        },
    )  # fmt: skip


_authors = functools.partial(
    _model, first="head.0", up="tail.0.{}.weight", group=r"body\.(\d+)\.body\.0\.",
    block=r"body\.0\.body\.(\d+)\.body\.", down="body.0.body.0.body.3.conv_du.0",
)  # fmt: skip
_basicsr = functools.partial(
    _model, first="conv_first", up="upsample.{}.weight", group=r"body\.(\d+)\.conv\.",
    block=r"body\.0\.residual_group\.(\d+)\.", down="body.0.residual_group.0.rcab.3.attention.1",
)  # fmt: skip
FAMILIES = {
    "rcan": Family(
        "RCAN", RCAN, ("body.0.body.0.body.0.weight",), _authors, _authors_names, shifts=True
    ),
    "rcan-basicsr": Family(
        "BasicSR's RCAN", RCAN, ("body.0.residual_group.0.rcab.0.weight",), _basicsr, _basicsr_names,
        wrapper="params",
    ),
}  # fmt: skip
