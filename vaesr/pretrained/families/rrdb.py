"""RRDBNet, with BasicSR's names, which are Real-ESRGAN's too, and with the two that ESRGAN had before."""

import math

from vaesr.models.rrdb import RRDBNet
from vaesr.pretrained.naming import Family, Names, State, count


def _model(state: State, *, first: str, block: str, dense: str, ups: int) -> RRDBNet:
    """Of the names of the first convolution, the blocks and a dense convolution, and the doublings."""
    channels, inputs = state[f"{first}.weight"].shape[:2]
    side = math.isqrt(inputs // 3)
    if side**2 * 3 != inputs or side not in (1, 2, 4) or (side > 1 and ups != 2):
        raise ValueError(f"its first convolution takes {inputs} channels and it doubles {ups} times")
    return RRDBNet(
        scale=2**ups // side, channels=channels, growth=state[f"{dense}.weight"].shape[0],
        blocks=count(state, block), unshuffle=side > 1 or ups == 2,
    )  # fmt: skip


def _dense_names(model: RRDBNet, block: str, dense: str) -> Names:
    return {
        (f"body_{i}", f"rdb{j}", f"conv{k}"): block.format(i) + dense.format(j, k)
        for i in range(model.blocks)
        for j in (1, 2, 3)
        for k in range(1, 6)
    }


def _basicsr(state: State) -> RRDBNet:
    ups = count(state, r"conv_up(\d+)\.weight") - 1
    return _model(
        state, first="conv_first", block=r"body\.(\d+)\.rdb1", dense="body.0.rdb1.conv1", ups=max(0, ups)
    )


def _basicsr_names(model: RRDBNet) -> Names:
    ends = ("conv_body", *(f"conv_up{i + 1}" for i in range(model.doublings)), "conv_hr", "conv_last")
    return {
        ("conv_first",): "conv_first",
        **_dense_names(model, "body.{}.", "rdb{}.conv{}"),
        **{(name,): name for name in ends},
    }


def _new(state: State) -> RRDBNet:
    ups = count(state, r"upconv(\d+)\.weight") - 1
    dense = "RRDB_trunk.0.RDB1.conv1"
    return _model(state, first="conv_first", block=r"RRDB_trunk\.(\d+)\.RDB1", dense=dense, ups=max(0, ups))


def _new_names(model: RRDBNet) -> Names:
    return {
        ("conv_first",): "conv_first",
        **_dense_names(model, "RRDB_trunk.{}.", "RDB{}.conv{}"),
        ("conv_body",): "trunk_conv",
        **{(f"conv_up{i + 1}",): f"upconv{i + 1}" for i in range(model.doublings)},
        ("conv_hr",): "HRconv",
        ("conv_last",): "conv_last",
    }


def _old(state: State) -> RRDBNet:
    # Behind the trunk every doubling is three entries, of which the second has weights.
    last = count(state, r"model\.(\d+)\.weight$") - 1
    dense = "model.1.sub.0.RDB1.conv1.0"
    return _model(
        state, first="model.0", block=r"model\.1\.sub\.(\d+)\.RDB1", dense=dense, ups=(last - 4) // 3
    )


def _old_names(model: RRDBNet) -> Names:
    behind = 3 * model.doublings
    return {
        ("conv_first",): "model.0",
        **_dense_names(model, "model.1.sub.{}.", "RDB{}.conv{}.0"),
        ("conv_body",): f"model.1.sub.{model.blocks}",
        **{(f"conv_up{i + 1}",): f"model.{3 * i + 3}" for i in range(model.doublings)},
        ("conv_hr",): f"model.{behind + 2}",
        ("conv_last",): f"model.{behind + 4}",
    }


FAMILIES = {
    "rrdb": Family(
        "BasicSR's RRDBNet", RRDBNet, ("body.0.rdb1.conv1.weight",), _basicsr, _basicsr_names,
        wrapper="params",
    ),
    "esrgan": Family("ESRGAN's RRDBNet", RRDBNet, ("RRDB_trunk.0.RDB1.conv1.weight",), _new, _new_names),
    "esrgan-old": Family(
        "ESRGAN's RRDBNet (its first names)", RRDBNet, ("model.1.sub.0.RDB1.conv1.0.weight",), _old,
        _old_names,
    ),
}  # fmt: skip
