"""What a file of `families` is written with: whose names a state dict has, and how large a network is."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

State = Mapping[str, np.ndarray]
# Names of our modules and theirs.
Names = dict[tuple[str, ...], str]


def turn_kernel(leaf: str, array: np.ndarray) -> np.ndarray:
    """An array of theirs in our layout: kernels turn from `[out, in, h, w]` to `[h, w, in, out]`."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def turn_kernel_back(leaf: str, array: np.ndarray) -> np.ndarray:
    """The opposite of `turn_kernel`."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


class Family(NamedTuple):
    """A way to write a network down.

    Attributes:
        name: of the network and whose names it has.
        network: the class of ours that it holds.
        markers: names that every state dict of this family has, and none of another family has all of.
        model: makes our network of the arrays' shapes, `(state) -> module`.
        names: our module's name -> their prefix, for a network.
        wrapper: the dictionary that the original code expects the state in; "" for none.
        shifts: whether the mean colour is stored, too.
        leaves: what they call our leaves, where it is not "bias" for "bias" and "weight" for all others.
        ours: makes our array of the leaf of this name of theirs.
        theirs: the opposite.
        repeats: of a key that tells nothing new, the one that it repeats, or "" where it is of no use in
            a trained network; None of all others.
    """

    name: str
    network: type[nn.Module]
    markers: tuple[str, ...]
    model: Callable[[State], nn.Module]
    names: Callable[[Any], Names]
    wrapper: str = ""
    shifts: bool = False
    leaves: Mapping[str, str] = {}
    ours: Callable[[str, np.ndarray], np.ndarray] = turn_kernel
    theirs: Callable[[str, np.ndarray], np.ndarray] = turn_kernel_back
    repeats: Callable[[str], str | None] = lambda key: None


def count(state: State, pattern: str) -> int:
    """One more than the largest number that stands where the pattern has its group.

    A ValueError where that is larger than the state: what is counted has names there.
    """
    found = [int(m[1]) for key in state if (m := re.match(pattern, key))]
    if max(found, default=0) > len(state):
        raise ValueError(f"{max(found)} is too large a number for {pattern!r} in its names")
    return max(found, default=-1) + 1


# Of networks with a sub-pixel upsampler.


def scale_of(state: State, pattern: str, channels: int) -> int:
    """The factor of an upsampler whose convolutions' places the pattern's group counts, two apart."""
    scale, place = 1, 0
    while (array := state.get(pattern.format(place))) is not None:
        factor = math.isqrt(array.shape[0] // channels)
        if factor < 2 or factor**2 * channels != array.shape[0]:
            raise ValueError(f"{pattern.format(place)} has {array.shape[0]} outputs for {channels} channels")
        scale, place = scale * factor, place + 2
    return scale


def steps_of(scale: int) -> int:
    """How many convolutions an upsampler has: one for 3, else one a doubling."""
    return 1 if scale == 3 else scale.bit_length() - 1


def upsampler_names(scale: int, ours: str, theirs: str) -> Names:
    """Of the convolutions of our `Upsampler` called `ours`."""
    return {(ours, f"conv_{i}"): f"{theirs}.{2 * i}" for i in range(steps_of(scale))}


# Of networks with our trunk of residual blocks.


def residual_scale_of(channels: int) -> float:
    """The papers' factor on a residual branch, which no file tells."""
    return 0.1 if channels == 256 else 1.0


def trunk_names(blocks: int, inside: tuple[str, str], after: str) -> Names:
    """Of a block's two convolutions and of the one behind all blocks."""
    names: Names = {
        ("trunk", f"body_{i}", f"conv_{k}"): f"body.{i}.{inside[k]}" for i in range(blocks) for k in (0, 1)
    }
    return names | {("trunk", "body_out"): after}
