"""NVAE, with its authors' names."""

import re
from typing import Any

import numpy as np

from vaesr.models.nvae import NVAE
from vaesr.pretrained.naming import Family, Names, State, turn_kernel, turn_kernel_back

_LARGEST = 4096  # pixels a side of the images
_ENCODER = {"norm_{}": "_ops.{}.bn_act", "conv_{}": "_ops.{}.conv_0"}
_SE = {("se", "Dense_0"): "se.se.0", ("se", "Dense_1"): "se.se.2"}


def _dense(state: State, room: str) -> int:
    """How many modules there are; their numbers go from 0 up."""
    found = {int(m[1]) for key in state if (m := re.match(rf"{room}\.(\d+)\.", key))}
    if found and max(found) + 1 != len(found):
        raise ValueError(f"the numbers of {room} in its names don't go from 0 up without a gap")
    return len(found)


def _is_down(state: State, cell: str) -> bool:
    return f"{cell}.skip.conv_1.weight" in state


def _is_up(state: State, cell: str) -> bool:
    return f"{cell}.skip.1.weight" in state


def _model(state: State) -> NVAE:
    """All hyper-parameters but the image's size are shapes; the size is the constant's times the halvings."""
    channels, colours = state["stem.weight"].shape[:2]
    pre = [f"pre_process.{i}" for i in range(_dense(state, "pre_process"))]
    pre_blocks = sum(_is_down(state, cell) for cell in pre)
    if not pre_blocks or len(pre) % pre_blocks:
        raise ValueError(f"{len(pre)} cells before the encoder halve the size {pre_blocks} times")
    # Up the tower: the cells of a group, then what joins it to the decoder; a halving between scales.
    groups, cells, encoder_cells = [0], 0, 0
    for i in range(_dense(state, "enc_tower")):
        place = f"enc_tower.{i}"
        if f"{place}.conv.weight" in state:
            groups[-1], encoder_cells, cells = groups[-1] + 1, cells, 0
        elif _is_down(state, place):
            groups.append(0)
        else:
            cells += 1
    groups[-1] += 1  # the coarsest group is joined to nothing
    if cells < 1 or (encoder_cells and cells != encoder_cells):
        raise ValueError("its groups have different numbers of cells in the encoder")
    tower = [f"dec_tower.{i}" for i in range(_dense(state, "dec_tower"))]
    plain = [p for p in tower if f"{p}.conv.weight" not in state and not _is_up(state, p)]
    if sum(groups) < 2 or len(plain) % (sum(groups) - 1):
        raise ValueError(f"it has {len(plain)} cells in the decoder for {sum(groups)} groups")
    flows = _dense(state, "nf_cells")
    if flows % sum(groups):
        raise ValueError(f"it has {flows} flows for {sum(groups)} groups")
    outputs = state["image_conditional.1.weight"].shape[0]
    start, halvings = state["prior_ftr0"].shape, pre_blocks + len(groups) - 1
    if len(start) != 3 or start[1] != start[2] or halvings > 12 or start[2] << halvings > _LARGEST:
        raise ValueError(f"prior_ftr0 has shape {start}, and the size halves {halvings} times")
    side = start[2] << halvings
    # One colour is MNIST, which the authors pad from 28 to 32.
    padding = 2 if colours == 1 and side == 32 else 0
    if outputs == colours:
        pixels: dict[str, Any] = {"likelihood": "bernoulli"}
    elif outputs == 2 * colours:
        pixels = {"likelihood": "discretised_gaussian"}
    elif colours == 3 and outputs % 10 == 0:
        # The authors train on 5 bits where images are of 256 pixels.
        pixels = {"likelihood": "logistic_mixture", "mixtures": outputs // 10}
    else:
        raise ValueError(f"it has {outputs} outputs a pixel for {colours} colours")
    return NVAE(
        (side - 2 * padding, side - 2 * padding, colours), channels, tuple(groups),
        state["enc_sampler.0.weight"].shape[0] // 2, pre_blocks, len(pre) // pre_blocks, cells,
        len(plain) // (sum(groups) - 1), flows // sum(groups), padding,
        bits=5 if side == 256 and colours == 3 else 8, **pixels,
    )  # fmt: skip


def _encoder_cell(ours: str, theirs: str, *, down: bool = False) -> Names:
    names: Names = {
        (ours, a.format(i)): f"{theirs}.{b.format(i)}" for a, b in _ENCODER.items() for i in (0, 1)
    }
    names |= {(ours, *place): f"{theirs}.{name}" for place, name in _SE.items()}
    if down:
        names |= {(ours, f"skip_{i}"): f"{theirs}.skip.conv_{i + 1}" for i in range(4)}
    return names


def _decoder_cell(ours: str, theirs: str, *, up: bool = False) -> Names:
    at = int(up)  # the enlargement comes first
    inside = {
        "norm_0": f"{at}", "expand": f"{at + 1}.conv.0", "norm_1": f"{at + 1}.conv.1",
        "spread": f"{at + 2}.conv.0", "norm_2": f"{at + 2}.conv.1", "project": f"{at + 3}",
        "norm_3": f"{at + 4}",
    }  # fmt: skip
    names: Names = {(ours, a): f"{theirs}._ops.0.conv.{b}" for a, b in inside.items()}
    names |= {(ours, *place): f"{theirs}.{name}" for place, name in _SE.items()}
    if up:
        names[ours, "skip"] = f"{theirs}.skip.1"
    return names


def _names(model: NVAE) -> Names:
    names: Names = {
        (): "", ("stem",): "stem", ("top",): "enc0.1", ("to_image",): "image_conditional.1",
    }  # fmt: skip
    total, cells = sum(model.groups), model.pre_cells
    for i in range(model.pre_blocks * cells):
        names |= _encoder_cell(f"pre_process_{i}", f"pre_process.{i}", down=i % cells == cells - 1)
        names |= _decoder_cell(f"post_process_{i}", f"post_process.{i}", up=i % cells == 0)
    place = cell = group = 0
    for scale, groups in enumerate(model.groups):
        for _ in range(groups):
            for _ in range(model.encoder_cells):
                names |= _encoder_cell(f"encoder_{cell}", f"enc_tower.{place}")
                cell, place = cell + 1, place + 1
            if group < total - 1:
                # Ours stand in the decoder's order.
                names[(f"taps_{total - 2 - group}",)] = f"enc_tower.{place}.conv"
                place += 1
            group += 1
        if scale < len(model.groups) - 1:
            names |= _encoder_cell(f"downs_{scale}", f"enc_tower.{place}", down=True)
            place += 1
    place = cell = group = 0
    for scale, groups in enumerate(model.groups[::-1]):
        if scale:
            names |= _decoder_cell(f"ups_{scale - 1}", f"dec_tower.{place}", up=True)
            place += 1
        for _ in range(groups):
            for _ in range(model.decoder_cells if group else 0):
                names |= _decoder_cell(f"decoder_{cell}", f"dec_tower.{place}")
                cell, place = cell + 1, place + 1
            names[(f"combiners_{group}",)] = f"dec_tower.{place}.conv"
            names[(f"posteriors_{group}",)] = f"enc_sampler.{group}"
            if group:
                names[(f"priors_{group - 1}",)] = f"dec_sampler.{group - 1}.1"
            group, place = group + 1, place + 1
    for i in range(total * model.flows):
        for k in (0, 1):
            names |= {
                (f"transforms_{2 * i + k}", ours): f"nf_cells.{i}.cell{k + 1}.{theirs}"
                for ours, theirs in (
                    ("widen", "conv.convz.0"),
                    ("spread", "conv.convz.2"),
                    ("narrow", "mu.conv_0"),
                )
            }
    return names


def _ours(leaf: str, array: np.ndarray) -> np.ndarray:
    if leaf == "start":
        return array.transpose(1, 2, 0) if array.ndim == 3 else array
    if leaf == "log_length":
        return array.reshape(-1) if array.ndim == 4 else array
    return array.T if array.ndim == 2 else turn_kernel(leaf, array)


def _theirs(leaf: str, array: np.ndarray) -> np.ndarray:
    if leaf == "start":
        return array.transpose(2, 0, 1)
    if leaf == "log_length":
        return array.reshape(-1, 1, 1, 1)
    return array.T if array.ndim == 2 else turn_kernel_back(leaf, array)


def _repeats(key: str) -> str | None:
    """Their convolutions without weight normalisation store their kernel twice."""
    if key.endswith(".num_batches_tracked"):
        return ""
    return re.sub("_normalized$", "", key) if key.endswith(".weight_normalized") else None


_LEAVES = {
    "log_length": "log_weight_norm", "start": "prior_ftr0", "mean": "running_mean", "var": "running_var",
}  # fmt: skip
FAMILIES = {
    "nvae": Family(
        "NVAE", NVAE, ("prior_ftr0", "enc_sampler.0.weight"), _model, _names, wrapper="state_dict",
        leaves=_LEAVES, ours=_ours, theirs=_theirs, repeats=_repeats,
    ),
}  # fmt: skip
