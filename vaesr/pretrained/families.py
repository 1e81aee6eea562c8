"""Ways of writing super-resolution networks down: what each calls our layers, and how large a network is.

ESRGAN's RRDBNet has three namings; EDSR and RCAN those of their authors and BasicSR's.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR
from vaesr.models.rcan import RCAN
from vaesr.models.rrdb import RRDBNet
from vaesr.models.srresnet import MSRResNet
from vaesr.models.srvgg import SRVGGNetCompact

State = Mapping[str, np.ndarray]
# Names of our modules and theirs.
Names = dict[tuple[str, ...], str]


class Family(NamedTuple):
    """A way to write a network down.

    Attributes:
        name: of the network and whose names it has.
        marker: a name that the state dicts of this family have and those of the families after it lack.
        model: makes our network of the arrays' shapes, `(state) -> module`.
        names: our module's name -> their prefix, for a network.
        wrapper: the dictionary that the original code expects the state in; "" for none.
        shifts: whether the mean colour is stored, too.
    """

    name: str
    marker: str
    model: Callable[[State], nn.Module]
    names: Callable[[Any], Names]
    wrapper: str = ""
    shifts: bool = False


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that stands where the pattern has its group."""
    found = [int(m[1]) for key in state if (m := re.match(pattern, key))]
    return max(found, default=-1) + 1


# RRDBNet, three namings.


def _rrdb(state: State, *, first: str, block: str, dense: str, ups: int) -> RRDBNet:
    """Of the names of the first convolution, the blocks and a dense convolution, and the doublings."""
    channels, inputs = state[f"{first}.weight"].shape[:2]
    side = math.isqrt(inputs // 3)
    if side**2 * 3 != inputs or side not in (1, 2, 4) or (side > 1 and ups != 2):
        raise ValueError(f"its first convolution takes {inputs} channels and it doubles {ups} times")
    return RRDBNet(
        scale=2**ups // side, channels=channels, growth=state[f"{dense}.weight"].shape[0],
        blocks=_count(state, block), unshuffle=side > 1 or ups == 2,
    )  # fmt: skip


def _dense_names(model: RRDBNet, block: str, dense: str) -> Names:
    return {
        (f"body_{i}", f"rdb{j}", f"conv{k}"): block.format(i) + dense.format(j, k)
        for i in range(model.blocks)
        for j in (1, 2, 3)
        for k in range(1, 6)
    }


def _rrdb_old(state: State) -> RRDBNet:
    # Behind the trunk every doubling is three entries, of which the second has weights.
    last = _count(state, r"model\.(\d+)\.weight$") - 1
    dense = "model.1.sub.0.RDB1.conv1.0"
    return _rrdb(
        state, first="model.0", block=r"model\.1\.sub\.(\d+)\.RDB1", dense=dense, ups=(last - 4) // 3
    )


def _rrdb_old_names(model: RRDBNet) -> Names:
    behind = 3 * model.doublings
    return {
        ("conv_first",): "model.0",
        **_dense_names(model, "model.1.sub.{}.", "RDB{}.conv{}.0"),
        ("conv_body",): f"model.1.sub.{model.blocks}",
        **{(f"conv_up{i + 1}",): f"model.{3 * i + 3}" for i in range(model.doublings)},
        ("conv_hr",): f"model.{behind + 2}",
        ("conv_last",): f"model.{behind + 4}",
    }


def _rrdb_new(state: State) -> RRDBNet:
    ups = _count(state, r"upconv(\d+)\.weight") - 1
    dense = "RRDB_trunk.0.RDB1.conv1"
    return _rrdb(state, first="conv_first", block=r"RRDB_trunk\.(\d+)\.RDB1", dense=dense, ups=max(0, ups))


def _rrdb_new_names(model: RRDBNet) -> Names:
    return {
        ("conv_first",): "conv_first",
        **_dense_names(model, "RRDB_trunk.{}.", "RDB{}.conv{}"),
        ("conv_body",): "trunk_conv",
        **{(f"conv_up{i + 1}",): f"upconv{i + 1}" for i in range(model.doublings)},
        ("conv_hr",): "HRconv",
        ("conv_last",): "conv_last",
    }


def _rrdb_basicsr(state: State) -> RRDBNet:
    ups = _count(state, r"conv_up(\d+)\.weight") - 1
    return _rrdb(
        state, first="conv_first", block=r"body\.(\d+)\.rdb1", dense="body.0.rdb1.conv1", ups=max(0, ups)
    )


def _rrdb_basicsr_names(model: RRDBNet) -> Names:
    ends = ("conv_body", *(f"conv_up{i + 1}" for i in range(model.doublings)), "conv_hr", "conv_last")
    return {
        ("conv_first",): "conv_first",
        **_dense_names(model, "body.{}.", "rdb{}.conv{}"),
        **{(name,): name for name in ends},
    }


# Networks with a sub-pixel upsampler.


def _scale(state: State, pattern: str, channels: int) -> int:
    """The factor of an upsampler whose convolutions' places the pattern's group counts, two apart."""
    scale, place = 1, 0
    while (array := state.get(pattern.format(place))) is not None:
        factor = math.isqrt(array.shape[0] // channels)
        if factor < 2 or factor**2 * channels != array.shape[0]:
            raise ValueError(f"{pattern.format(place)} has {array.shape[0]} outputs for {channels} channels")
        scale, place = scale * factor, place + 2
    return scale


def _steps(scale: int) -> int:
    """How many convolutions an upsampler has: one for 3, else one a doubling."""
    return 1 if scale == 3 else scale.bit_length() - 1


def _upsampler_names(scale: int, ours: str, theirs: str) -> Names:
    return {(ours, f"conv_{i}"): f"{theirs}.{2 * i}" for i in range(_steps(scale))}


def _papers_scale(channels: int) -> float:
    return 0.1 if channels == 256 else 1.0


def _trunk_names(blocks: int, inside: tuple[str, str], after: str) -> Names:
    names: Names = {
        ("trunk", f"body_{i}", f"conv_{k}"): f"body.{i}.{inside[k]}" for i in range(blocks) for k in (0, 1)
    }
    return names | {("trunk", "body_out"): after}


def _edsr(state: State) -> EDSR:
    channels = state["head.0.weight"].shape[0]
    return EDSR(
        _scale(state, "tail.0.{}.weight", channels), channels, _count(state, r"body\.(\d+)\.body\.0\."),
        _papers_scale(channels),
    )  # fmt: skip


def _edsr_names(model: EDSR) -> Names:
    return {
        ("head",): "head.0",
        **_trunk_names(model.blocks, ("body.0", "body.2"), f"body.{model.blocks}"),
        **_upsampler_names(model.scale, "upsampler", "tail.0"),
        ("tail",): "tail.1",
    }


def _edsr_basicsr(state: State) -> EDSR:
    channels = state["conv_first.weight"].shape[0]
    return EDSR(
        _scale(state, "upsample.{}.weight", channels), channels, _count(state, r"body\.(\d+)\.conv1\."),
        _papers_scale(channels),
    )  # fmt: skip


def _edsr_basicsr_names(model: EDSR) -> Names:
    return {
        ("head",): "conv_first",
        **_trunk_names(model.blocks, ("conv1", "conv2"), "conv_after_body"),
        **_upsampler_names(model.scale, "upsampler", "upsample"),
        ("tail",): "conv_last",
    }


def _mdsr(state: State) -> MDSR:
    channels = state["head.0.weight"].shape[0]
    scales = tuple(
        _scale(state, f"upsample.{n}.{{}}.weight", channels)
        for n in range(_count(state, r"pre_process\.(\d+)\."))
    )
    return MDSR(scales, channels, _count(state, r"body\.(\d+)\.body\.0\."), _papers_scale(channels))


def _mdsr_names(model: MDSR) -> Names:
    names: Names = {("head",): "head.0"}
    for n, scale in enumerate(model.scales):
        names |= {
            (f"pre_process_x{scale}_{i}", f"conv_{k}"): f"pre_process.{n}.{i}.body.{2 * k}"
            for i in (0, 1)
            for k in (0, 1)
        }
        names |= _upsampler_names(scale, f"upsampler_x{scale}", f"upsample.{n}")
    return {
        **names,
        **_trunk_names(model.blocks, ("body.0", "body.2"), f"body.{model.blocks}"),
        ("tail",): "tail.0",
    }


def _rcan(state: State, *, first: str, up: str, group: str, block: str, down: str) -> RCAN:
    channels = state[f"{first}.weight"].shape[0]
    return RCAN(
        _scale(state, up, channels), channels, groups=_count(state, group), blocks=_count(state, block),
        reduction=channels // state[f"{down}.weight"].shape[0],
    )  # fmt: skip


def _rcan_names(
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


def _rcan_authors(state: State) -> RCAN:
    return _rcan(
        state, first="head.0", up="tail.0.{}.weight", group=r"body\.(\d+)\.body\.0\.",
        block=r"body\.0\.body\.(\d+)\.body\.", down="body.0.body.0.body.3.conv_du.0",
    )  # fmt: skip


def _rcan_authors_names(model: RCAN) -> Names:
    return _rcan_names(
        model, block="body.{}.body.{}.body", convs=("0", "2"), attend=("3.conv_du.0", "3.conv_du.2"),
        out=f"body.{{}}.body.{model.blocks}",
        rest={
            ("head",): "head.0", ("body_out",): f"body.{model.groups}",
            **_upsampler_names(model.scale, "upsampler", "tail.0"), ("tail",): "tail.1",
        },
    )  # fmt: skip


def _rcan_basicsr(state: State) -> RCAN:
    return _rcan(
        state, first="conv_first", up="upsample.{}.weight", group=r"body\.(\d+)\.conv\.",
        block=r"body\.0\.residual_group\.(\d+)\.", down="body.0.residual_group.0.rcab.3.attention.1",
    )  # fmt: skip


def _rcan_basicsr_names(model: RCAN) -> Names:
    return _rcan_names(
        model, block="body.{}.residual_group.{}.rcab", convs=("0", "2"),
        attend=("3.attention.1", "3.attention.3"), out="body.{}.conv",
        rest={
            ("head",): "conv_first", ("body_out",): "conv_after_body",
            **_upsampler_names(model.scale, "upsampler", "upsample"), ("tail",): "conv_last",
        },
    )  # fmt: skip


def _msrresnet(state: State) -> MSRResNet:
    channels, scale = state["conv_first.weight"].shape[0], 1
    for i in range(1, 1 + max(0, _count(state, r"upconv(\d+)\.weight") - 1)):
        scale *= math.isqrt(state[f"upconv{i}.weight"].shape[0] // channels)
    return MSRResNet(scale, channels, _count(state, r"body\.(\d+)\.conv1\."))


def _msrresnet_names(model: MSRResNet) -> Names:
    return {
        ("conv_first",): "conv_first",
        **{(f"body_{i}", f"conv_{k}"): f"body.{i}.conv{k + 1}" for i in range(model.blocks) for k in (0, 1)},
        **{(f"upconv_{i}",): f"upconv{i + 1}" for i in range(_steps(model.scale))},
        ("conv_hr",): "conv_hr",
        ("conv_last",): "conv_last",
    }


def _srvgg(state: State) -> SRVGGNetCompact:
    last = _count(state, r"body\.(\d+)\.weight") - 1
    outputs = state[f"body.{last}.weight"].shape[0]
    scale = math.isqrt(outputs // 3)
    if last % 2 or last < 2 or scale**2 * 3 != outputs:
        raise ValueError(f"its last layer, body.{last}, makes {outputs} channels")
    return SRVGGNetCompact(scale, state["body.0.weight"].shape[0], last // 2 - 1)


def _srvgg_names(model: SRVGGNetCompact) -> Names:
    names: Names = {(f"conv_{i}",): f"body.{2 * i}" for i in range(model.convs + 2)}
    return names | {(f"prelu_{i}",): f"body.{2 * i + 1}" for i in range(model.convs + 1)}


FAMILIES: dict[str, Family] = {
    "esrgan-old": Family(
        "ESRGAN's RRDBNet (its first names)", "model.1.sub.0.RDB1.conv1.0.weight", _rrdb_old, _rrdb_old_names
    ),
    "esrgan": Family("ESRGAN's RRDBNet", "RRDB_trunk.0.RDB1.conv1.weight", _rrdb_new, _rrdb_new_names),
    "rrdb": Family(
        "BasicSR's RRDBNet", "body.0.rdb1.conv1.weight", _rrdb_basicsr, _rrdb_basicsr_names, "params"
    ),
    "rcan-basicsr": Family(
        "BasicSR's RCAN",
        "body.0.residual_group.0.rcab.0.weight",
        _rcan_basicsr,
        _rcan_basicsr_names,
        "params",
    ),
    "rcan": Family("RCAN", "body.0.body.0.body.0.weight", _rcan_authors, _rcan_authors_names, shifts=True),
    "mdsr": Family("MDSR", "pre_process.0.0.body.0.weight", _mdsr, _mdsr_names, shifts=True),
    "edsr": Family("EDSR", "body.0.body.0.weight", _edsr, _edsr_names, shifts=True),
    "edsr-basicsr": Family(
        "BasicSR's EDSR", "conv_after_body.weight", _edsr_basicsr, _edsr_basicsr_names, "params"
    ),
    "msrresnet": Family("BasicSR's MSRResNet", "upconv1.weight", _msrresnet, _msrresnet_names, "params"),
    "srvgg": Family("SRVGGNetCompact", "body.1.weight", _srvgg, _srvgg_names, "params"),
}
"""The ways of writing a network down, in the order in which they are looked for."""
