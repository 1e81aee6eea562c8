"""Super-resolution networks of other projects: whose a state dict is, and what its names are in ours.

Known are ESRGAN's RRDBNet under all three of its namings, SRVGGNetCompact, BasicSR's MSRResNet, and EDSR,
MDSR and RCAN as their authors and as BasicSR wrote them. Kernels turn from `[out, in, h, w]` to `[h, w, in,
out]`; nothing else changes, so that what is written back is bit for bit what was read.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vaesr.models.edsr import EDSR
from vaesr.models.mdsr import MDSR
from vaesr.models.rcan import RCAN
from vaesr.models.rrdb import RRDBNet
from vaesr.models.srresnet import MSRResNet
from vaesr.models.srvgg import SRVGGNetCompact

State = Mapping[str, np.ndarray]
# Names of our modules and theirs.
Names = dict[tuple[str, ...], str]
# Where checkpoints keep their state dict, the best first.
_WRAPPERS = (
    "params_ema", "params-ema", "params", "model_state_dict", "state_dict", "model", "net", "generator",
)  # fmt: skip
_PREFIXES = ("module.", "netG.", "generator.")
# DIV2K's mean colour and the range of pixels, as in the authors' files.
_MEAN, _RANGE = (0.4488, 0.4371, 0.4040), 255.0


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


class Upscaler(NamedTuple):
    """A network of another project, in ours.

    Attributes:
        model: the module.
        params: its parameters, NumPy arrays.
        family: how it was written down, a key of `FAMILIES`.
    """

    model: nn.Module
    params: dict[str, Any]
    family: str


def unwrap_state(tree: Any) -> dict[str, np.ndarray]:
    """Finds the state dict in what a checkpoint holds.

    Args:
        tree: nested dictionaries, see `read_torch`.

    Returns:
        Arrays by dotted name, without the prefixes that wrappers of modules add.

    Raises:
        ValueError: if there is none.
    """
    while isinstance(tree, dict):
        arrays = {k: v for k, v in tree.items() if isinstance(v, np.ndarray) and isinstance(k, str)}
        inner = [tree[name] for name in _WRAPPERS if isinstance(tree.get(name), dict)]
        if inner:
            tree = inner[0]
        elif arrays:
            return _without_prefix(arrays)
        elif len(tree) == 1:
            tree = next(iter(tree.values()))
        else:
            break
    raise ValueError("it holds no state dict: save the network's state_dict()")


def _without_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _without_prefix({key[len(prefix) :]: array for key, array in state.items()})
    return state


def read_upscaler(state: State, *, residual_scale: float | None = None) -> Upscaler:
    """Makes our network of another project's state dict.

    Args:
        state: arrays by dotted name, in PyTorch's layout.
        residual_scale: of EDSR and MDSR, which do not store it; None is the papers': 0.1 at 256 channels,
            else 1.

    Returns:
        The network.

    Raises:
        ValueError: if it is of no known network, a name is missing or left over, a shape does not fit, or a
            value is not finite; the names are given.
    """
    known = _find_family(state)
    family = FAMILIES[known]
    try:
        model = family.model(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"it looks like {family.name}, but {_reason(error)}") from error
    if residual_scale is not None:
        if not hasattr(model, "residual_scale"):
            raise ValueError(f"{family.name} has no residual_scale")
        model = model.clone(residual_scale=residual_scale)
    static = (model.scales[0],) if isinstance(model, MDSR) else ()
    image, seed = jnp.zeros((1, 16, 16, 3)), jax.random.key(0)
    shapes = flatten_dict(jax.eval_shape(lambda: model.init(seed, image, *static))["params"])
    names, left = family.names(model), dict(state)
    found, missing = {}, []
    for place, leaf in shapes.items():
        key = _key(names, place)
        array = left.pop(key, None)
        if array is None:
            missing.append(key)
            continue
        array = np.asarray(array, np.float32)
        ours = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        if ours.shape != leaf.shape:
            raise ValueError(
                f"{key} has shape {array.shape}; in {family.name} of this size it becomes {leaf.shape}"
            )
        if not np.isfinite(ours).all():
            raise ValueError(f"{key} holds values that are not finite")
        found[place] = np.ascontiguousarray(ours)
    if family.shifts:
        _check_shifts(left, missing)
    if missing or left:
        parts = [
            f"{verb} {_some(keys)}" for verb, keys in (("lacks", missing), ("also has", [*left])) if keys
        ]
        raise ValueError(f"it looks like {family.name}, but {' and '.join(parts)}")
    return Upscaler(model, unflatten_dict(found), known)


def write_upscaler(model: nn.Module, params: Mapping[str, Any], family: str) -> dict[str, np.ndarray]:
    """The opposite of `read_upscaler`.

    Args:
        model: the network.
        params: its parameters.
        family: a key of `FAMILIES`.

    Returns:
        Float32 arrays by dotted name, in PyTorch's layout.

    Raises:
        ValueError: if there is no such family, or it cannot hold the network.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    kind = FAMILIES[family]
    try:
        names = kind.names(model)
        flat = flatten_dict(dict(params))
        left = {_key(names, place): leaf for place, leaf in flat.items()}
    except (AttributeError, KeyError) as error:
        raise ValueError(f"{kind.name} cannot hold a {type(model).__name__}") from error
    state = _shifts() if kind.shifts else {}
    for key in (f"{name}.{part}" for name in names.values() for part in ("weight", "bias")):
        if key in left:
            array = np.asarray(left[key], np.float32)
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            state[key] = np.ascontiguousarray(array)
    return state


def _key(names: Names, place: tuple[str, ...]) -> str:
    """Their name of a parameter of ours."""
    *modules, leaf = place
    return f"{names[tuple(modules)]}.{'bias' if leaf == 'bias' else 'weight'}"


def family_of(model: nn.Module) -> str:
    """How a network is written down where nobody says how.

    Args:
        model: the network.

    Returns:
        A key of `FAMILIES`: the authors' names, and for RRDBNet those of BasicSR and Real-ESRGAN.

    Raises:
        ValueError: if no other project has such a network.
    """
    families = {EDSR: "edsr", MDSR: "mdsr", RCAN: "rcan", RRDBNet: "rrdb", MSRResNet: "msrresnet"}
    found = (families | {SRVGGNetCompact: "srvgg"}).get(type(model))
    if found is None:
        raise ValueError(f"no project known here has names for {type(model).__name__}")
    return found


def _find_family(state: State) -> str:
    for name, family in FAMILIES.items():
        if family.marker in state:
            return name
    if any("conv1x1" in key for key in state):
        raise ValueError("it is ESRGAN+, which is not known here")
    known = ", ".join(family.name for family in FAMILIES.values())
    raise ValueError(f"its names ({_some([*state])}) are of no network known here: {known}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(sorted(keys)[:3]) + more


def _reason(error: Exception) -> str:
    return f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that stands where the pattern has its group."""
    found = [int(m[1]) for key in state if (m := re.match(pattern, key))]
    return max(found, default=-1) + 1


# The mean colour, stored as convolutions by the authors' EDSR, MDSR and RCAN.


def _shifts() -> dict[str, np.ndarray]:
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    mean = np.float32(_RANGE) * np.asarray(_MEAN, np.float32)
    return {
        f"{name}.{part}": array
        for name, sign in (("sub_mean", -1), ("add_mean", 1))
        for part, array in (("weight", eye), ("bias", sign * mean))
    }


def _check_shifts(left: dict[str, np.ndarray], missing: list[str]) -> None:
    for key, wanted in _shifts().items():
        array = left.pop(key, None)
        if array is None:
            missing.append(key)
        elif array.shape != wanted.shape or not np.allclose(array, wanted, rtol=1e-3, atol=1e-3):
            raise ValueError(f"{key} is not DIV2K's mean colour on a range of 0 to 255: {array.ravel()[:3]}")


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
